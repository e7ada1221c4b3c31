import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { ApiError } from "../../shared/api/client.ts";
import { type Answer, Asker, DRAFT_MS, FIRST_RETRY_MS, LATE_MS, NOTHING, REST_MS } from "./asker.ts";

interface Question {
  first: number;
  draft: boolean;
  signal: AbortSignal;
  answer: (label: string) => Promise<void>;
  fail: (error: ApiError) => Promise<void>;
}

let questions: Question[];
let asker: Asker;

beforeEach(() => {
  vi.useFakeTimers();
  questions = [];
  asker = new Asker(
    (pixels, draft, signal) =>
      new Promise((resolve, reject) => {
        const settled = () => vi.advanceTimersByTimeAsync(0).then(() => {});
        questions.push({
          first: pixels[0] ?? 0,
          draft,
          signal,
          answer: (label) => {
            resolve({ label } as Answer);
            return settled();
          },
          fail: (error) => {
            reject(error);
            return settled();
          },
        });
      }),
  );
});
afterEach(() => vi.useRealTimers());

const pixels = (first: number) => () => Uint8Array.of(first, 0);
const asked = (at: number) => questions[at] as Question;

it("asks drafts at most every 120 ms, of the newest drawing, and for the record when the pen rests", async () => {
  for (let move = 1; move <= 24; move++) {
    asker.changed(pixels(move), true);
    await vi.advanceTimersByTimeAsync(10);
    await questions.at(-1)?.answer(`draft ${move}`);
  }
  expect(questions.length).toBeGreaterThanOrEqual(2);
  expect(questions.length).toBeLessThanOrEqual(1 + Math.ceil(240 / DRAFT_MS));
  expect(questions.every(({ draft }) => draft)).toBe(true);
  asker.changed(pixels(24), false);
  await vi.advanceTimersByTimeAsync(REST_MS);
  expect(questions.at(-1)).toMatchObject({ draft: false, first: 24 });
  await questions.at(-1)?.answer("cat");
  expect(asker.state).toMatchObject({ isFinal: true, answer: { label: "cat" } });
});

it("does not ask for the record while the pen is down, however long", async () => {
  asker.changed(pixels(1), true);
  await vi.advanceTimersByTimeAsync(10 * REST_MS);
  expect(questions.map(({ draft }) => draft)).toEqual([true]);
});

it("lets a draft answer before it asks the next, unless it is late; late answers are not shown", async () => {
  asker.changed(pixels(1), true);
  await vi.advanceTimersByTimeAsync(0);
  asker.changed(pixels(2), true);
  await vi.advanceTimersByTimeAsync(LATE_MS - 20);
  expect(questions).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(60);
  expect(questions).toHaveLength(2);
  expect(asked(0).signal.aborted).toBe(true);
  await asked(1).answer("new");
  await asked(0).answer("old");
  expect(asker.state.answer?.label).toBe("new");
});

it("sends nothing for nothing, and takes the old answer away", async () => {
  asker.changed(pixels(1), false);
  await vi.advanceTimersByTimeAsync(REST_MS);
  await questions.at(-1)?.answer("cat");
  const before = questions.length;
  asker.changed(() => null, false);
  await vi.advanceTimersByTimeAsync(2 * REST_MS);
  expect(questions).toHaveLength(before);
  expect(asker.state).toEqual(NOTHING);
});

it("does not ask twice for the same drawing", async () => {
  asker.changed(pixels(1), false);
  await vi.advanceTimersByTimeAsync(REST_MS);
  await questions.at(-1)?.answer("cat");
  const before = questions.length;
  void asker.ask();
  expect(questions).toHaveLength(before);
});

it("asks again by itself after the gateway was away, not after a refusal", async () => {
  asker.changed(pixels(1), false);
  await vi.advanceTimersByTimeAsync(REST_MS);
  await questions.at(-1)?.fail(new ApiError(0, "unreachable", "away"));
  expect(asker.state.error?.code).toBe("unreachable");
  const before = questions.length;
  await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS);
  expect(questions).toHaveLength(before + 1);
  await questions.at(-1)?.fail(new ApiError(400, "invalid_image", "no"));
  await vi.advanceTimersByTimeAsync(100 * FIRST_RETRY_MS);
  expect(questions).toHaveLength(before + 1);
});
