/** Rows of one height, of which only those in the window exist; asks for more before the end is reached. */
import { useWindowVirtualizer } from "@tanstack/react-virtual";
import { type Key, type ReactNode, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";
import "./VirtualList.css";

const AHEAD = 30; // rows before the end

interface Props<T> {
  items: readonly T[];
  rowKey: (item: T) => Key;
  row: (item: T) => ReactNode;
  /** Pixels. */
  height: number;
  name: string;
  more: () => void;
  /** There are more than these. */
  isOpen: boolean;
}

export function VirtualList<T>({ items, rowKey, row, height, name, more, isOpen }: Props<T>) {
  const list = useRef<HTMLUListElement>(null);
  const [top, setTop] = useState(0);
  useLayoutEffect(() => {
    const measure = () => setTop(list.current?.offsetTop ?? 0);
    measure();
    addEventListener("resize", measure);
    return () => removeEventListener("resize", measure);
  }, []);
  const newestKey = useRef(rowKey);
  newestKey.current = rowKey;
  // The same function until there are other items: with another one every row is measured anew, at each step of a scroll.
  const getItemKey = useCallback((index: number) => newestKey.current(items[index] as T), [items]);
  const rows = useWindowVirtualizer({
    count: items.length,
    estimateSize: () => height,
    overscan: 8,
    scrollMargin: top,
    getItemKey,
  });
  const shown = rows.getVirtualItems();
  const last = shown.at(-1)?.index ?? -1;
  useEffect(() => {
    if (isOpen && items.length > 0 && last >= items.length - AHEAD) more();
  }, [last, items.length, isOpen, more]);
  return (
    <ul ref={list} className="virtual" aria-label={name} style={{ height: rows.getTotalSize() }}>
      {shown.map(({ index, key, start, size }) => (
        <li
          key={key}
          aria-setsize={isOpen ? -1 : items.length}
          aria-posinset={index + 1}
          style={{ height: size, transform: `translateY(${start - top}px)` }}
        >
          {row(items[index] as T)}
        </li>
      ))}
    </ul>
  );
}
