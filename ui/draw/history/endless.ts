/**
 * A list without an end, a page at a time, kept as one array: what was loaded is not asked for again.
 *
 *   const list = useEndless(["history", model], (before, signal) => gateway.get(...));
 *   list.items; list.more(); list.renew();
 */

import { useCallback, useEffect, useMemo, useState, useSyncExternalStore } from "react";
import { ApiError } from "../../shared/api/client.ts";

export interface Page<T> {
  items: T[];
  next_before: string | null;
}

export interface Endless<T> {
  items: readonly T[];
  isLoading: boolean;
  /** There is nothing after the last. */
  isDone: boolean;
  error: Error | null;
}

type Load<T> = (before: string | null, signal: AbortSignal) => Promise<Page<T>>;

export class EndlessList<T> {
  state: Endless<T> = { items: [], isLoading: false, isDone: false, error: null };
  private next: string | null = null;
  private request: AbortController | null = null;
  private readonly watchers = new Set<() => void>();

  constructor(private readonly load: Load<T>) {}

  watch = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  /** The next page, unless it is under way or there is none. After an error only `retry` asks again. */
  more(): void {
    if (this.state.isLoading || this.state.isDone || this.state.error !== null) return;
    void this.fetch(this.next, (items) => [...this.state.items, ...items]);
  }

  /** What it said stays until there is an answer. */
  retry(): void {
    if (this.state.isLoading || this.state.isDone) return;
    void this.fetch(this.next, (items) => [...this.state.items, ...items]);
  }

  /** From the newest on; what is shown stays until the answer is there. */
  renew(): void {
    this.request?.abort();
    this.become({ error: null });
    void this.fetch(null, (items) => items);
  }

  end(): void {
    this.request?.abort();
    this.request = null;
    this.become({ isLoading: false });
  }

  private async fetch(before: string | null, put: (items: T[]) => T[]): Promise<void> {
    const request = new AbortController();
    this.request = request;
    this.become({ isLoading: true });
    try {
      const page = await this.load(before, request.signal);
      if (request !== this.request) return;
      this.next = page.next_before;
      this.become({
        items: put(page.items),
        error: null,
        isLoading: false,
        isDone: page.next_before === null,
      });
    } catch (error) {
      if (request !== this.request) return;
      this.become({ isLoading: false, error: error as Error });
    }
  }

  private become(change: Partial<Endless<T>>): void {
    this.state = { ...this.state, ...change };
    for (const watcher of this.watchers) watcher();
  }
}

const AGAIN_MS = 5_000;

/** key: another one is another list. What failed is asked for again by itself, when that may help. */
export function useEndless<T>(key: readonly unknown[], load: Load<T>) {
  const name = JSON.stringify(key);
  const [newest] = useState(() => ({ load }));
  newest.load = load;
  // biome-ignore lint/correctness/useExhaustiveDependencies: another name is another list
  const list = useMemo(() => new EndlessList<T>((...asked) => newest.load(...asked)), [name]);
  useEffect(() => {
    list.more();
    return () => list.end();
  }, [list]);
  const state = useSyncExternalStore(list.watch, () => list.state);
  const { error } = state;
  useEffect(() => {
    if (!(error instanceof ApiError && error.isPassing)) return;
    const timer = setTimeout(() => list.retry(), AGAIN_MS);
    return () => clearTimeout(timer);
  }, [error, list]);
  const more = useCallback(() => list.more(), [list]);
  const retry = useCallback(() => list.retry(), [list]);
  const renew = useCallback(() => list.renew(), [list]);
  return { ...state, more, retry, renew };
}
