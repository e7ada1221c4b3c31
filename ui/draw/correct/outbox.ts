/**
 * What somebody said of an image, on its way to the gateway: kept in the browser first, sent one after the other, again
 * and again while the gateway is away, each with the one Idempotency-Key it was born with.
 *
 *   outbox.add({ key: newKey(), model, label, image, predictionId, source: "correction" });
 *   const { waiting, sent, refused, isAway } = useOutbox();
 *
 * One after the other, because the first answer to a newcomer brings the cookie that says who they are.
 */
import { useSyncExternalStore } from "react";
import { ApiError, type GatewayComponents, gateway } from "../../shared/api/client.ts";
import { InBrowser, InMemory, type Keeper } from "./keeper.ts";

export type Sent = GatewayComponents["schemas"]["CorrectionAnswer"];

export interface Statement {
  /** Its Idempotency-Key. */
  key: string;
  model: string;
  label: string;
  /** Base64 of the model's raw pixels or of an image file. */
  image: string;
  predictionId: string | null;
  source: "correction" | "sample";
  /** Milliseconds since 1970, with a fraction that keeps the order. */
  madeAt: number;
}

export interface Refused {
  statement: Statement;
  error: ApiError;
}

export interface OutboxState {
  /** Not sent yet, in order. */
  waiting: readonly Statement[];
  /** Never accepted as they are; kept until somebody takes them away. */
  refused: readonly Refused[];
  /** Since this page was loaded: Idempotency-Key to the gateway's answer. */
  sent: ReadonlyMap<string, Sent>;
  /** The last attempt did not get through. */
  isAway: boolean;
  /** When it will be tried again, milliseconds since 1970. */
  nextTryAt: number | null;
}

export const FIRST_RETRY_MS = 1_000;
export const LONGEST_RETRY_MS = 30_000;

type Send = (statement: Statement) => Promise<Sent>;

export class Outbox {
  state: OutboxState = { waiting: [], refused: [], sent: new Map(), isAway: false, nextTryAt: null };
  private readonly watchers = new Set<() => void>();
  private readonly keepers = new Map<string, Keeper>();
  private lastMadeAt = 0;
  private sending = false;
  private retryMs = FIRST_RETRY_MS;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly send: Send,
    private readonly keeper: Keeper,
    private readonly fallback: Keeper = new InMemory(),
  ) {}

  /** Takes up what an earlier page left, and sends it. */
  async begin(): Promise<void> {
    addEventListener("online", () => this.tryNow());
    try {
      const left = await this.keeper.all();
      for (const { key } of left) this.keepers.set(key, this.keeper);
      const known = new Set(this.state.waiting.map(({ key }) => key));
      this.become({ waiting: [...left.filter(({ key }) => !known.has(key)), ...this.state.waiting] });
    } catch {
      // This browser keeps nothing for us: what is said now waits in memory.
    }
    void this.drain();
  }

  /** Said again with the same key it is nothing new. Resolves when the browser has it. */
  async add(said: Omit<Statement, "madeAt">): Promise<void> {
    if (this.isKnown(said.key)) return;
    this.lastMadeAt = Math.max(Date.now(), this.lastMadeAt + 0.001);
    const statement = { ...said, madeAt: this.lastMadeAt };
    this.become({ waiting: [...this.state.waiting, statement] });
    try {
      await this.keeper.put(statement);
      this.keepers.set(statement.key, this.keeper);
    } catch {
      await this.fallback.put(statement);
      this.keepers.set(statement.key, this.fallback);
    }
    if (!this.state.isAway) await this.drain();
  }

  /** Does not wait for the next attempt's time. */
  tryNow(): void {
    this.retryMs = FIRST_RETRY_MS;
    void this.drain();
  }

  /** Takes a refused statement away. */
  async forget(key: string): Promise<void> {
    this.become({ refused: this.state.refused.filter(({ statement }) => statement.key !== key) });
    await this.keeperOf(key).remove(key);
  }

  watch = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  /** Where it is, or is being put just now. */
  private keeperOf(key: string): Keeper {
    return this.keepers.get(key) ?? this.keeper;
  }

  private isKnown(key: string): boolean {
    return (
      this.state.sent.has(key) ||
      this.state.waiting.some((statement) => statement.key === key) ||
      this.state.refused.some(({ statement }) => statement.key === key)
    );
  }

  private async drain(): Promise<void> {
    if (this.sending) return;
    this.sending = true;
    clearTimeout(this.timer);
    try {
      for (let next = this.state.waiting[0]; next !== undefined; next = this.state.waiting[0]) {
        if (!(await this.sendOne(next))) return;
      }
      this.become({ isAway: false, nextTryAt: null });
    } finally {
      this.sending = false;
    }
  }

  /** Whether the next may follow. */
  private async sendOne(statement: Statement): Promise<boolean> {
    const rest = () => this.state.waiting.filter(({ key }) => key !== statement.key);
    try {
      const answer = await this.send(statement);
      await this.keeperOf(statement.key)
        .remove(statement.key)
        .catch(() => {}); // sent again: the first answer again
      this.retryMs = FIRST_RETRY_MS;
      const sent = new Map(this.state.sent).set(statement.key, answer);
      this.become({ waiting: rest(), sent, isAway: false, nextTryAt: null });
      return true;
    } catch (thrown) {
      const error = thrown instanceof ApiError ? thrown : new ApiError(0, "broken", String(thrown));
      if (isForGood(error)) {
        this.become({ waiting: rest(), refused: [...this.state.refused, { statement, error }] });
        return true;
      }
      const pauseMs = Math.max(this.retryMs, 1000 * (error.retryAfterSeconds ?? 0));
      this.timer = setTimeout(() => void this.drain(), pauseMs);
      this.retryMs = Math.min(2 * this.retryMs, LONGEST_RETRY_MS);
      // An unexpected error may be of this one alone: it holds up no other.
      const waiting = error.status === 500 ? [...rest(), statement] : this.state.waiting;
      this.become({ waiting, isAway: true, nextTryAt: Date.now() + pauseMs });
      return false;
    }
  }

  private become(change: Partial<OutboxState>): void {
    this.state = { ...this.state, ...change };
    for (const watcher of this.watchers) watcher();
  }
}

/** The gateway understood it and says no. Nobody signed in (401), too many waiting (429) and the like may pass. */
function isForGood(error: ApiError): boolean {
  return error.status >= 400 && error.status < 500 && ![401, 408, 425, 429].includes(error.status);
}

async function toGateway({ key, model, label, image, predictionId, source }: Statement): Promise<Sent> {
  return gateway.post("/save-image/", {
    body: { image, label, model, source, prediction_id: predictionId },
    headers: { "Idempotency-Key": key },
  });
}

/** crypto.randomUUID is only there on secure origins; this page may be on plain HTTP in a home network. */
export function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const outbox = new Outbox(toGateway, new InBrowser());

export function useOutbox(): OutboxState {
  return useSyncExternalStore(outbox.watch, () => outbox.state);
}
