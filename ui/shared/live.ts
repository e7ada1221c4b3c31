/**
 * Everything that happens to runs and stages, live, over one connection a page.
 *
 *   useLive((event) => { ... });          // each transition, in order, none missed
 *   const state = useLiveState();         // "connecting", "live" or "stale"
 *
 * Read with fetch, not with EventSource: that one hides the heartbeats, so it cannot say that the line is dead.
 *
 * A tab that nobody looks at lets go of its line and takes it up again where it was: a browser opens six connections to
 * a host over plain HTTP, so that the seventh tab would wait for ever.
 */
import { useEffect, useRef, useSyncExternalStore } from "react";

export const HEARTBEAT_MS = 15_000; // viewer/events.py
export const STALE_MS = HEARTBEAT_MS + 5_000;
export const HIDDEN_MS = 10_000; // a short look at another tab changes nothing
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 10_000;

/** A row of the table `transitions`. stage: null when it is the run's own. */
export interface Transition {
  id: number;
  run_id: number;
  model: string;
  stage: string | null;
  status: string;
  message: string | null;
  figures: Record<string, unknown> | null;
  at: string;
}

export type LiveState = "connecting" | "live" | "stale";

export class Live {
  state: LiveState = "connecting";
  private readonly readers = new Set<(event: Transition) => void>();
  private readonly watchers = new Set<() => void>();
  private lastId: number | null = null;
  private heardAt = 0;
  private retryMs = FIRST_RETRY_MS;
  private connection: AbortController | null = null;
  private timers: ReturnType<typeof setTimeout>[] = [];
  private hiding: ReturnType<typeof setTimeout> | undefined;
  private isBegun = false;

  constructor(private readonly address: string) {}

  /** Connects with the first reader, lets go after the last. */
  read(reader: (event: Transition) => void): () => void {
    this.readers.add(reader);
    this.begin();
    return () => {
      this.readers.delete(reader);
      this.endWhenAlone();
    };
  }

  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    this.begin();
    return () => {
      this.watchers.delete(watcher);
      this.endWhenAlone();
    };
  }

  private begin(): void {
    if (this.isBegun) return;
    this.isBegun = true;
    addEventListener("online", this.again);
    addEventListener("visibilitychange", this.seen);
    if (!isHidden()) void this.connect();
  }

  private endWhenAlone(): void {
    if (this.readers.size + this.watchers.size > 0) return;
    this.isBegun = false;
    removeEventListener("online", this.again);
    removeEventListener("visibilitychange", this.seen);
    clearTimeout(this.hiding);
    this.letGo();
    this.state = "connecting";
  }

  private readonly seen = (): void => {
    clearTimeout(this.hiding);
    if (isHidden()) {
      this.hiding = setTimeout(() => {
        this.letGo();
        this.become("connecting");
      }, HIDDEN_MS);
    } else if (this.connection === null) this.again();
  };

  private letGo(): void {
    this.stopTimers();
    this.connection?.abort();
    this.connection = null;
  }

  private readonly again = (): void => {
    if (this.connection === null && isHidden()) return; // once it is looked at
    this.retryMs = FIRST_RETRY_MS;
    this.stopTimers();
    this.connection?.abort();
    void this.connect();
  };

  private async connect(): Promise<void> {
    const connection = new AbortController();
    this.connection = connection;
    this.heard();
    try {
      const from = this.lastId === null ? "" : `?after=${this.lastId}`;
      const response = await fetch(this.address + from, {
        headers: { Accept: "text/event-stream" },
        cache: "no-store",
        signal: connection.signal,
      });
      if (!response.ok || response.body === null) throw new Error(`status ${response.status}`);
      this.retryMs = FIRST_RETRY_MS;
      this.become("live");
      await this.follow(response.body.getReader(), connection.signal);
    } catch {
      // Whatever it was: the line is gone, and is tried again below.
    }
    if (connection !== this.connection) return; // ended, or replaced, on purpose
    this.become("stale");
    this.stopTimers();
    this.timers.push(setTimeout(() => void this.connect(), this.retryMs));
    this.retryMs = Math.min(this.retryMs * 2, LONGEST_RETRY_MS);
  }

  private async follow(reader: ReadableStreamDefaultReader<Uint8Array>, ended: AbortSignal): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    while (!ended.aborted) {
      const { done, value } = await reader.read();
      if (done) return;
      this.heard();
      this.become("live");
      const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) this.take(block);
    }
  }

  private take(block: string): void {
    const data = block
      .split("\n")
      .filter((line) => line.startsWith("data:"))
      .map((line) => line.slice(5).trimStart())
      .join("\n");
    if (data === "") return; // a heartbeat, or `retry`
    const event = JSON.parse(data) as Transition;
    if (this.lastId !== null && event.id <= this.lastId) return;
    this.lastId = event.id;
    for (const reader of this.readers) reader(event);
  }

  private heard(): void {
    this.heardAt = Date.now();
    this.stopTimers();
    this.timers.push(setTimeout(() => this.silent(), STALE_MS));
  }

  private silent(): void {
    if (Date.now() - this.heardAt < STALE_MS) return;
    this.become("stale");
    this.again();
  }

  private become(state: LiveState): void {
    if (this.state === state) return;
    this.state = state;
    for (const watcher of this.watchers) watcher();
  }

  private stopTimers(): void {
    for (const timer of this.timers) clearTimeout(timer);
    this.timers = [];
  }
}

function isHidden(): boolean {
  return typeof document !== "undefined" && document.hidden;
}

export const live = new Live("runs/events");

export function useLive(take: (event: Transition) => void): void {
  const newest = useRef(take);
  useEffect(() => {
    newest.current = take;
  });
  useEffect(() => live.read((event) => newest.current(event)), []);
}

const watch = (told: () => void) => live.watch(told);

export function useLiveState(): LiveState {
  return useSyncExternalStore(watch, () => live.state);
}
