/** Corrections as a grid of images to choose from, by mouse, finger or keyboard alone; only those in sight are in the page. */
import { useWindowVirtualizer } from "@tanstack/react-virtual";
import { type KeyboardEvent, memo, useCallback, useEffect, useRef, useState } from "react";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { Pixels } from "../../shared/components/Pixels.tsx";
import { StatusMark } from "../../shared/components/StatusMark.tsx";
import { type Action, type ListedCorrection, shownAt } from "../data.ts";
import { indexOf, move, range, type Selection, toggled } from "../selection.ts";

const KEYS: Record<string, Action> = { a: "accept", r: "relabel", x: "reject" };
const TILE_WIDTH = 148;
const NARROW_TILE = 108;
const TILE_HEIGHT = 224; // a reason takes three lines
const PLAIN_TILE_HEIGHT = 160;
const NARROW_PLAIN_TILE_HEIGHT = 176; // when it was said takes two lines
const NARROW = 560;

interface Props {
  items: readonly ListedCorrection[];
  ids: readonly string[];
  selection: Selection;
  setSelection: (selection: Selection) => void;
  canChoose: boolean;
  begin: (action: Action) => void;
  more: () => void;
  canAccept: boolean;
  /** Its tiles say why they are here, which takes room. */
  hasReasons: boolean;
}

export function CorrectionGrid({
  items,
  ids,
  selection,
  setSelection,
  canChoose,
  begin,
  more,
  canAccept,
  hasReasons,
}: Props) {
  const place = useRef<HTMLUListElement>(null);
  const [{ top, width }, setPlace] = useState({ top: 0, width: 1000 });
  useEffect(() => {
    const measure = () => {
      const box = place.current?.getBoundingClientRect();
      if (box) setPlace({ top: box.top + scrollY, width: box.width });
    };
    const watcher = new ResizeObserver(measure);
    watcher.observe(document.body);
    measure();
    return () => watcher.disconnect();
  }, []);
  const isNarrow = width < NARROW;
  const plainHeight = isNarrow ? NARROW_PLAIN_TILE_HEIGHT : PLAIN_TILE_HEIGHT;
  const tileHeight = hasReasons ? TILE_HEIGHT : plainHeight;
  const columns = Math.max(2, Math.floor(width / (isNarrow ? NARROW_TILE : TILE_WIDTH)));
  const rows = Math.ceil(items.length / columns);
  const virtual = useWindowVirtualizer({
    count: rows,
    estimateSize: () => tileHeight,
    overscan: 3,
    scrollMargin: top,
    scrollPaddingStart: 90, // the bar that stays at the top
    scrollPaddingEnd: 20,
  });
  const shownRows = virtual.getVirtualItems();
  const lastRow = shownRows.at(-1)?.index ?? 0;
  useEffect(() => {
    if (lastRow >= rows - 4) more();
  }, [lastRow, rows, more]);

  const at = ids[indexOf(selection, ids)];
  const hasFocus = useRef(false);
  // The keyboard's place follows the selection, also to a row that was not in the page a moment ago.
  useEffect(() => {
    if (!hasFocus.current || at === undefined) return;
    const input = place.current?.querySelector<HTMLElement>(`[data-id="${CSS.escape(at)}"]`);
    if (input && input !== document.activeElement) input.focus({ preventScroll: true });
  });
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.altKey) return;
    const isCommand = event.ctrlKey || event.metaKey;
    if (isCommand && event.key.toLowerCase() === "a" && canChoose) {
      event.preventDefault();
      setSelection({ ...selection, chosen: new Set(ids) });
      return;
    }
    if (isCommand) return;
    const action = KEYS[event.key.toLowerCase()];
    if (action && canChoose) {
      event.preventDefault();
      begin(action);
      return;
    }
    if (event.key === "Escape") setSelection({ ...selection, chosen: new Set() });
    const next = move(selection, ids, event.key, { columns, extend: event.shiftKey && canChoose });
    if (next === null) return;
    event.preventDefault();
    setSelection(next);
    virtual.scrollToIndex(Math.floor(indexOf(next, ids) / columns));
  };
  const press = useCallback(
    (id: string, isRange: boolean) =>
      setSelection(isRange ? range(selection, ids, id) : toggled(selection, id)),
    [selection, ids, setSelection],
  );
  return (
    <>
      {canChoose && (
        <p className="small soft corrections-keys">
          Keys: arrows move, space chooses, shift chooses a range, {canAccept && "A accepts, "}R relabels, X
          rejects.
        </p>
      )}
      <ul
        ref={place}
        className="corrections-grid"
        style={{ height: virtual.getTotalSize() }}
        aria-label="Corrections"
        onKeyDown={onKeyDown}
        onFocus={() => {
          hasFocus.current = true;
        }}
        onBlur={(event) => {
          if (event.relatedTarget !== null) hasFocus.current = false;
        }}
      >
        {shownRows.flatMap(({ index: row, start }) =>
          items.slice(row * columns, (row + 1) * columns).map((item, column) => (
            <li
              key={item.correction_id}
              className="corrections-place"
              style={{
                width: `${100 / columns}%`,
                height: tileHeight,
                transform: `translate(${100 * column}%, ${start - top}px)`,
              }}
            >
              <Tile
                item={item}
                isChosen={selection.chosen.has(item.correction_id)}
                isAt={item.correction_id === at}
                canChoose={canChoose}
                press={press}
              />
            </li>
          )),
        )}
      </ul>
    </>
  );
}

interface TileProps {
  item: ListedCorrection;
  isChosen: boolean;
  isAt: boolean;
  canChoose: boolean;
  press: (id: string, isRange: boolean) => void;
}

const SOURCES: Record<string, string> = { sample: "sample", review: "by review" };

const Tile = memo(function Tile({ item, isChosen, isAt, canChoose, press }: TileProps) {
  const { correction_id: id, label, reason, source, received_at, reviewed_at, reviewed_by } = item;
  const words = (
    <>
      <Pixels src={shownAt(item.image)} alt={`said to be ${label}`} size={84} />
      <span className="tile-label" title={label}>
        {label}
      </span>
      {!reviewed_at && (
        <span className="tile-line tile-when">
          <LocalTime at={received_at} />
          {SOURCES[source] && ` · ${SOURCES[source]}`}
        </span>
      )}
      {reviewed_at ? (
        <span className="tile-decided">
          <StatusMark {...DECIDED[item.review ?? ""]} status={DECIDED[item.review ?? ""]?.status ?? "done"} />
          {item.review === "relabel" && item.reviewed_as && (
            <span className="tile-line">as {item.reviewed_as}</span>
          )}
          <span className="tile-line" title={reviewed_by ?? undefined}>
            by {reviewed_by ?? "somebody"}
          </span>
          <span className="tile-line">
            <LocalTime at={reviewed_at} />
          </span>
        </span>
      ) : (
        reason && (
          <span className="tile-reason" title={reason}>
            {reason}
          </span>
        )
      )}
    </>
  );
  if (!canChoose) return <div className="tile">{words}</div>;
  return (
    <label className="tile tile-choice" data-chosen={isChosen || undefined}>
      <input
        type="checkbox"
        data-id={id}
        checked={isChosen}
        tabIndex={isAt ? 0 : -1}
        onChange={(event) => press(id, (event.nativeEvent as MouseEvent).shiftKey)}
      />
      {words}
    </label>
  );
});

const DECIDED: Record<string, { status: string; word: string }> = {
  accept: { status: "succeeded", word: "Accepted" },
  relabel: { status: "succeeded", word: "Relabelled" },
  reject: { status: "rejected", word: "Rejected" },
};
