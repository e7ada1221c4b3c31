/** A value that outlives the page that shows it: `const said = new Cell<Said | null>(null); const now = useCell(said)`. */
import { useSyncExternalStore } from "react";

export class Cell<T> {
  private readonly watchers = new Set<() => void>();
  constructor(public value: T) {}

  set(value: T): void {
    this.value = value;
    for (const watcher of this.watchers) watcher();
  }

  watch = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };
}

export function useCell<T>(cell: Cell<T>): T {
  return useSyncExternalStore(cell.watch, () => cell.value);
}
