import { expect, it } from "vitest";
import { EndlessList, type Page } from "./endless.ts";

const TOTAL = 25;
const settled = () => new Promise((resolve) => setTimeout(resolve));

function list(fail: () => boolean = () => false) {
  const asked: (string | null)[] = [];
  const made = new EndlessList<number>(async (before): Promise<Page<number>> => {
    asked.push(before);
    if (fail()) throw new Error("away");
    const first = before === null ? TOTAL : Number(before) - 1;
    const items = Array.from({ length: Math.min(10, first) }, (_, at) => first - at);
    const last = items.at(-1);
    return { items, next_before: items.length === 10 && last !== undefined ? String(last) : null };
  });
  return { made, asked };
}

it("loads page after page to the end, each once", async () => {
  const { made, asked } = list();
  for (let turn = 0; turn < 6; turn++) {
    made.more();
    made.more();
    await settled();
  }
  expect(made.state.items).toEqual(Array.from({ length: TOTAL }, (_, at) => TOTAL - at));
  expect(made.state.isDone).toBe(true);
  expect(asked).toEqual([null, "16", "6"]);
});

it("stops at an error until it is told to try again, and keeps what it has", async () => {
  let away = false;
  const { made } = list(() => away);
  made.more();
  await settled();
  away = true;
  made.more();
  await settled();
  made.more();
  expect(made.state).toMatchObject({ error: { message: "away" }, isLoading: false });
  expect(made.state.items).toHaveLength(10);
  away = false;
  made.retry();
  await settled();
  expect(made.state.items).toHaveLength(20);
});

it("asks again for all that is shown, and shows it when it has come", async () => {
  const { made, asked } = list();
  made.more();
  await settled();
  made.more();
  await settled();
  made.refresh();
  expect(made.state.items).toHaveLength(20);
  await settled();
  expect(made.state).toMatchObject({ isLoading: false, isDone: false });
  expect(made.state.items).toEqual(Array.from({ length: 20 }, (_, at) => TOTAL - at));
  expect(asked).toEqual([null, "16", null, "16"]);
  made.more();
  await settled();
  expect(made.state.items).toHaveLength(TOTAL);
});

it("begins anew from the newest, and drops an answer that is late", async () => {
  const { made } = list();
  made.more();
  await settled();
  made.more();
  made.renew();
  await settled();
  expect(made.state.items).toHaveLength(10);
  expect(made.state.items[0]).toBe(TOTAL);
});
