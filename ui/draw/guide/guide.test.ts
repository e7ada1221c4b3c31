import { beforeEach, expect, it } from "vitest";
import type { Category } from "../correct/names.ts";
import { advance, begin, dismiss, forgetUnlessBegun, guide, restart, samplesFor } from "./guide.ts";

const said = (key: string) => ({
  key,
  model: "doodles",
  label: "igloo",
  answered: "house",
  before: 1,
  strokes: [],
});
const igloo = (missing: number): Category[] => [
  { id: 1, name: "igloo", aliases: [], state: "pending", images: 0, train_images: 0, missing },
];

beforeEach(() => {
  localStorage.clear();
  restart();
});

it("is about the newest correction, until samples were made of one", () => {
  begin(said("a"));
  begin(said("b"));
  expect(guide.value.subject?.key).toBe("b");
  advance({ samples: 24 });
  begin(said("c"));
  expect(guide.value.subject).toMatchObject({ key: "b", samples: 24, runId: null });
});

it("forgets what was not meant, but not once samples were made of it", () => {
  begin(said("a"));
  forgetUnlessBegun("another");
  expect(guide.value.subject?.key).toBe("a");
  forgetUnlessBegun("a");
  expect(guide.value.subject).toBe(null);
  begin(said("b"));
  advance({ samples: 24 });
  forgetUnlessBegun("b");
  expect(guide.value.subject?.key).toBe("b");
});

it("stays away once it was dismissed", () => {
  begin(said("a"));
  dismiss();
  begin(said("b"));
  expect(guide.value).toEqual({ isDismissed: true, subject: null });
  expect(JSON.parse(localStorage.getItem("emend-guide") ?? "")).toEqual(guide.value);
});

it("makes more samples for a category that needs many", () => {
  expect(samplesFor("igloo", igloo(0))).toBe(24);
  expect(samplesFor("Igloo", igloo(20))).toBe(36);
  expect(samplesFor("yurt", [])).toBe(36);
  expect(samplesFor("igloo", igloo(500))).toBe(96);
});
