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

const MOST_REFRESHED = 1_000;

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

  /** What is shown, as it is now: nobody is taken back to the top, unless there is more of it than is worth asking for. */
  refresh(): void {
    this.request?.abort();
    this.become({ error: null });
    const least = Math.min(this.state.items.length, MOST_REFRESHED);
    void this.fetch(null, (items) => items, least);
  }

  end(): void {
    this.request?.abort();
    this.request = null;
    this.become({ isLoading: false });
  }

  /** least: so many items, or all there are, before anything is shown of them. */
  private async fetch(before: string | null, put: (items: T[]) => T[], least = 1): Promise<void> {
    const request = new AbortController();
    this.request = request;
    this.become({ isLoading: true });
    try {
      const items: T[] = [];
      let next = before;
      do {
        const page = await this.load(next, request.signal);
        if (request !== this.request) return;
        items.push(...page.items);
        next = page.next_before;
      } while (next !== null && items.length < least);
      this.next = next;
      this.become({ items: put(items), error: null, isLoading: false, isDone: next === null });
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
  const refresh = useCallback(() => list.refresh(), [list]);
  return { ...state, more, retry, renew, refresh };
}
