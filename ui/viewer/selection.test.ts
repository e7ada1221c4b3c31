import { expect, test } from "vitest";
import { meant, move, NOTHING, range, toggled, without } from "./selection.ts";

const IDS = ["a", "b", "c", "d", "e", "f", "g"]; // in rows of three
const BY_THREE = { columns: 3, extend: false };

test("arrows go by one and by a row, and stop at the ends", () => {
  const right = move(NOTHING, IDS, "ArrowRight", BY_THREE);
  expect(right?.at).toBe("b");
  const down = move({ ...NOTHING, at: "b" }, IDS, "ArrowDown", BY_THREE);
  expect(down?.at).toBe("e");
  expect(move({ ...NOTHING, at: "e" }, IDS, "ArrowDown", BY_THREE)?.at).toBe("g");
  expect(move({ ...NOTHING, at: "b" }, IDS, "ArrowUp", BY_THREE)?.at).toBe("b");
  expect(move({ ...NOTHING, at: "g" }, IDS, "Home", BY_THREE)?.at).toBe("a");
  expect(move(NOTHING, IDS, "q", BY_THREE)).toBeNull();
  expect(move(NOTHING, [], "ArrowDown", BY_THREE)).toBeNull();
});

test("with shift a range is chosen, in both directions", () => {
  const begun = toggled(NOTHING, "c");
  const on = move(begun, IDS, "ArrowRight", { columns: 3, extend: true });
  expect([...(on?.chosen ?? [])]).toEqual(["c", "d"]);
  expect([...range({ ...NOTHING, at: "d" }, IDS, "b").chosen]).toEqual(["b", "c", "d"]);
});

test("a second time takes it out again", () => {
  expect(toggled(toggled(NOTHING, "c"), "c").chosen.size).toBe(0);
});

test("what is meant: the chosen, in order; without any the one under the keyboard", () => {
  expect(meant(toggled(toggled(NOTHING, "e"), "b"), IDS)).toEqual(["b", "e"]);
  expect(meant({ ...NOTHING, at: "d" }, IDS)).toEqual(["d"]);
  expect(meant(NOTHING, IDS)).toEqual([]);
});

test("what was decided is gone, and the keyboard stands at the next one", () => {
  const state = toggled(toggled(NOTHING, "b"), "c");
  expect(without(state, IDS, new Set(["b", "c"]))).toEqual({ chosen: new Set(), at: "d", from: "d" });
  expect(without({ ...NOTHING, at: "g" }, IDS, new Set(["g"])).at).toBe("f");
  expect(without({ ...NOTHING, at: "a" }, ["a"], new Set(["a"])).at).toBeNull();
});
