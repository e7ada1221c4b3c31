import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { ApiError } from "../../shared/api/client.ts";
import { InMemory } from "./keeper.ts";
import { FIRST_RETRY_MS, Outbox, type Sent, type Statement } from "./outbox.ts";

let sent: Statement[];
let answer: (statement: Statement) => Sent;
let keeper: InMemory;
let outbox: Outbox;

const said = (key: string) => ({
  key,
  model: "doodles",
  label: "cat",
  image: "AAAA",
  predictionId: null,
  source: "correction" as const,
});
const away = () => {
  throw new ApiError(0, "unreachable", "away");
};

beforeEach(() => {
  vi.useFakeTimers();
  sent = [];
  answer = ({ key, label }) => ({ correction_id: `of ${key}`, label }) as Sent;
  keeper = new InMemory();
  outbox = made();
});
afterEach(() => vi.useRealTimers());

function made(): Outbox {
  return new Outbox(async (statement) => {
    sent.push(statement);
    return answer(statement);
  }, keeper);
}

it("sends a statement once, however often it is said", async () => {
  await Promise.all([outbox.add(said("a")), outbox.add(said("a")), outbox.add(said("a"))]);
  await outbox.add(said("a"));
  expect(sent.map(({ key }) => key)).toEqual(["a"]);
  expect(outbox.state.sent.get("a")?.correction_id).toBe("of a");
  expect(await keeper.all()).toEqual([]);
});

it("keeps what cannot be sent, says so, and sends it in order when the gateway is back", async () => {
  answer = away;
  await outbox.add(said("a"));
  await outbox.add(said("b"));
  expect(outbox.state).toMatchObject({ isAway: true, waiting: [{ key: "a" }, { key: "b" }] });
  expect((await keeper.all()).map(({ key }) => key)).toEqual(["a", "b"]);
  await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS);
  const tries = sent.length;
  expect(tries).toBe(2);
  await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS); // the second pause is longer
  expect(sent).toHaveLength(tries);
  answer = ({ key }) => ({ correction_id: key }) as Sent;
  dispatchEvent(new Event("online"));
  await outbox.begin();
  await vi.advanceTimersByTimeAsync(0);
  expect(outbox.state).toMatchObject({ isAway: false, waiting: [], nextTryAt: null });
  expect([...outbox.state.sent.keys()]).toEqual(["a", "b"]);
});

it("sends what an earlier page left", async () => {
  answer = away;
  await outbox.add(said("a"));
  answer = ({ key }) => ({ correction_id: key }) as Sent;
  const later = made();
  await later.begin();
  await vi.advanceTimersByTimeAsync(0);
  expect(later.state.sent.has("a")).toBe(true);
  expect(await keeper.all()).toEqual([]);
});

it("lets the others pass one that the gateway stumbles over", async () => {
  answer = ({ key }) => {
    if (key === "a") throw new ApiError(500, "internal", "something went wrong");
    return { correction_id: key } as Sent;
  };
  await outbox.add(said("a"));
  await outbox.add(said("b"));
  await vi.advanceTimersByTimeAsync(3 * FIRST_RETRY_MS); // the second pause is longer
  expect([...outbox.state.sent.keys()]).toEqual(["b"]);
  await vi.advanceTimersByTimeAsync(0);
  expect(outbox.state).toMatchObject({ isAway: true, waiting: [{ key: "a" }], refused: [] });
});

it("puts a refused one aside, and goes on with the next", async () => {
  answer = ({ key }) => {
    if (key === "a") throw new ApiError(400, "invalid_label", "label is empty");
    return { correction_id: key } as Sent;
  };
  await outbox.add(said("a"));
  await outbox.add(said("b"));
  expect(outbox.state.refused[0]?.error.code).toBe("invalid_label");
  expect(outbox.state.sent.has("b")).toBe(true);
  await outbox.forget("a");
  expect(outbox.state.refused).toEqual([]);
  expect(await keeper.all()).toEqual([]);
});

it("waits as long as the gateway says", async () => {
  answer = () => {
    throw new ApiError(429, "too_many", "later", null, null, null, 7);
  };
  await outbox.add(said("a"));
  await vi.advanceTimersByTimeAsync(6_999);
  expect(sent).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(sent).toHaveLength(2);
});

it("holds a statement in memory when the browser keeps nothing", async () => {
  const broken = new InMemory();
  broken.put = () => Promise.reject(new Error("no room"));
  const box = new Outbox(async (statement) => answer(statement), broken);
  answer = away;
  await box.add(said("a"));
  expect(box.state.waiting).toHaveLength(1);
  answer = ({ key }) => ({ correction_id: key }) as Sent;
  await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS);
  expect(box.state.sent.has("a")).toBe(true);
});

it("leaves nothing behind when it is sent before the browser has said that it is kept", async () => {
  const slow = new InMemory();
  const put = slow.put.bind(slow);
  slow.put = async (statement) => {
    await put(statement);
    await new Promise((resolve) => setTimeout(resolve, statement.key === "b" ? 500 : 0));
  };
  answer = ({ key }) => ({ correction_id: key }) as Sent;
  const box = new Outbox(async (statement) => answer(statement), slow);
  void box.add(said("a"));
  void box.add(said("b"));
  await vi.advanceTimersByTimeAsync(100);
  expect([...box.state.sent.keys()]).toEqual(["a", "b"]);
  expect(await slow.all()).toEqual([]);
});

it("waits for somebody to sign in, and throws nothing away", async () => {
  answer = () => {
    throw new ApiError(401, "password_needed", "this needs a password");
  };
  await outbox.add(said("a"));
  expect(outbox.state).toMatchObject({ isAway: true, refused: [] });
  answer = ({ key }) => ({ correction_id: key }) as Sent;
  await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS);
  expect(outbox.state.sent.has("a")).toBe(true);
});
