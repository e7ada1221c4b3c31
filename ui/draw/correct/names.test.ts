import { describe, expect, it } from "vitest";
import { type Category, distance, matching, named, nearlyNamed, tidy } from "./names.ts";

const categories = ["cat", "bird", "airplane", "butterfly", "bus", "ice cream", "café"].map(
  (name, id): Category => ({
    id,
    name,
    aliases: name === "airplane" ? ["plane"] : [],
    state: "active",
    images: 100,
    missing: 0,
    train_images: 80,
  }),
);
const names = (found: Category[]) => found.map(({ name }) => name);

it("tidies spaces, as the gateway does", () => {
  expect(tidy("  ice \t cream ")).toBe("ice cream");
});

it("knows a name in any case, and by an alias", () => {
  expect(named(" CAT ", categories)?.name).toBe("cat");
  expect(named("Plane", categories)?.name).toBe("airplane");
  expect(named("cats", categories)).toBeUndefined();
});

it("finds what holds the letters, beginnings first", () => {
  expect(names(matching("b", categories))).toEqual(["bird", "bus", "butterfly"]);
  expect(names(matching("lane", categories))).toEqual(["airplane"]);
  expect(names(matching("cafe", categories))).toEqual(["café"]);
  expect(matching("", categories)).toHaveLength(categories.length);
});

describe("points out names that are nearly there", () => {
  it.each([
    ["cats", "cat"],
    ["brid", "bird"],
    ["birds", "bird"],
    ["aeroplane", "airplane"],
    ["planes", "airplane"],
    ["butterflies", "butterfly"],
    ["buses", "bus"],
    ["icecream", "ice cream"],
    ["Cafe", "café"],
  ])("%s: %s", (typed, meant) => expect(names(nearlyNamed(typed, categories))).toEqual([meant]));

  it.each(["igloo", "bat", "cat", "dog", "", "!"])("but nothing for %j", (typed) =>
    expect(nearlyNamed(typed, categories)).toEqual([]),
  );
});

it("counts letters added, taken, changed and swapped", () => {
  expect(distance("", "cat")).toBe(3);
  expect(distance("brid", "bird")).toBe(1);
  expect(distance("kitten", "sitting")).toBe(3);
});
