/**
 * Asks the model while somebody draws, and once more, for the record, when the pen rests.
 *
 * Drafts go out at most every DRAFT_MS; one that is still under way is called off only when it is late, so that a slow
 * gateway still answers something. The final question calls off any draft. Only the newest answer is ever shown.
 */
import { type ApiError, type GatewayComponents, gateway } from "../../shared/api/client.ts";
import { toBase64 } from "../../shared/base64.ts";

export type Answer = GatewayComponents["schemas"]["PredictionAnswer"];

export const DRAFT_MS = 120;
export const LATE_MS = 480;
export const REST_MS = 600;
export const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 10_000;

export interface Asked {
  /** What the model sees; null: nothing worth asking is drawn. */
  pixels: Uint8Array<ArrayBuffer> | null;
  answer: Answer | null;
  /** From the question to the answer, as the page saw it. */
  latencyMs: number | null;
  /** The answer is to exactly these pixels, and recorded. */
  isFinal: boolean;
  error: ApiError | null;
}

type Send = (pixels: Uint8Array, draft: boolean, signal: AbortSignal) => Promise<Answer>;

export const NOTHING: Asked = { pixels: null, answer: null, latencyMs: null, isFinal: false, error: null };

export class Asker {
  state: Asked = NOTHING;
  private render: () => Uint8Array<ArrayBuffer> | null = () => null;
  private request: AbortController | null = null;
  private requestedAt = Number.NEGATIVE_INFINITY;
  private draftTimer: ReturnType<typeof setTimeout> | undefined;
  private restTimer: ReturnType<typeof setTimeout> | undefined;
  private retryMs = FIRST_RETRY_MS;
  private readonly watchers = new Set<() => void>();

  constructor(private readonly send: Send) {}

  watch = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  /** The drawing changed. render: its pixels, or null when there is nothing worth asking; called when they are needed. */
  changed(render: () => Uint8Array<ArrayBuffer> | null, penIsDown: boolean): void {
    this.render = render;
    this.retryMs = FIRST_RETRY_MS;
    clearTimeout(this.restTimer);
    if (!penIsDown) this.restTimer = setTimeout(() => void this.ask(), REST_MS);
    if (this.draftTimer !== undefined) return;
    const since = performance.now() - this.requestedAt;
    this.draftTimer = setTimeout(() => this.draft(), Math.max(0, DRAFT_MS - since));
  }

  /** For the record, now. */
  async ask(): Promise<void> {
    this.stopTimers();
    const pixels = this.render();
    if (pixels === null) return this.forget();
    if (this.state.isFinal && same(pixels, this.state.pixels)) return;
    await this.put(pixels, false);
  }

  forget(): void {
    this.stopTimers();
    this.request?.abort();
    this.request = null;
    this.render = () => null;
    this.become(NOTHING);
  }

  private draft(): void {
    this.draftTimer = undefined;
    const late = performance.now() - this.requestedAt >= LATE_MS;
    if (this.request !== null && !late) {
      this.draftTimer = setTimeout(() => this.draft(), DRAFT_MS / 4);
      return;
    }
    const pixels = this.render();
    if (pixels === null) {
      this.request?.abort();
      this.request = null;
      this.become(NOTHING);
    } else if (!same(pixels, this.state.pixels) || this.state.answer === null) void this.put(pixels, true);
  }

  private async put(pixels: Uint8Array<ArrayBuffer>, draft: boolean): Promise<void> {
    this.request?.abort();
    const request = new AbortController();
    this.request = request;
    this.requestedAt = performance.now();
    this.become({ ...this.state, pixels, isFinal: false });
    try {
      const answer = await this.send(pixels, draft, request.signal);
      if (request !== this.request) return;
      this.request = null;
      this.retryMs = FIRST_RETRY_MS;
      const latencyMs = performance.now() - this.requestedAt;
      this.become({ pixels, answer, latencyMs, isFinal: !draft, error: null });
    } catch (error) {
      if (request !== this.request) return; // called off
      this.request = null;
      const failed = error as ApiError;
      this.become({ pixels, answer: null, latencyMs: null, isFinal: false, error: failed });
      if (draft || !failed.isPassing) return;
      this.restTimer = setTimeout(() => void this.ask(), this.retryMs);
      this.retryMs = Math.min(2 * this.retryMs, LONGEST_RETRY_MS);
    }
  }

  private stopTimers(): void {
    clearTimeout(this.draftTimer);
    clearTimeout(this.restTimer);
    this.draftTimer = undefined;
  }

  private become(state: Asked): void {
    if (state === this.state) return;
    this.state = state;
    for (const watcher of this.watchers) watcher();
  }
}

export function same(one: Uint8Array, other: Uint8Array | null): boolean {
  return other !== null && one.length === other.length && one.every((pixel, at) => pixel === other[at]);
}

/** Asks one model of the gateway. */
export function sendTo(model: string): Send {
  return async (pixels, draft, signal) =>
    (await gateway.post("/invocations/", {
      body: { image: toBase64(pixels), model, draft },
      signal,
      timeoutMs: 10_000,
    })) as Answer;
}
