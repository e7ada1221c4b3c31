import { describe, expect, it } from "vitest";
import { ago, counted, duration, percent, sentence, size } from "./format.ts";

describe("shares", () => {
  it.each([
    [0.4567, "45.7 %"],
    [1, "100.0 %"],
    [0.9999, "99.9 %"],
    [0, "0.0 %"],
    [0.0001, "< 0.1 %"],
  ])("%s is written %s", (share, written) => expect(percent(share).replaceAll("\u00a0", " ")).toBe(written));
});

describe("durations", () => {
  it.each([
    [0.418, "0.42 s"],
    [8.06, "8.1 s"],
    [9.99, "10 s"],
    [59.7, "1 min 00 s"],
    [80, "1 min 20 s"],
    [7500, "2 h 05 min"],
  ])("of %s seconds are written %s", (seconds, written) => expect(duration(seconds)).toBe(written));
});

it("one is one and many are many", () => {
  expect(counted(1, "run")).toBe("1 run");
  expect(counted(1200, "run")).toBe("1,200 runs");
  expect(counted(0, "category", "categories")).toBe("0 categories");
});

describe("what a service says", () => {
  it.each([
    [
      "the database does not answer; try again in a moment",
      "The database does not answer; try again in a moment.",
    ],
    [
      "MLflow at http://127.0.0.1:5000 does not answer (ConnectError); is it running?",
      "MLflow does not answer; is it running?",
    ],
    ["there is no run 7; `emend runs` lists them", "There is no run 7; “emend runs” lists them."],
    ["reason is too long (at most 300 characters)", "Reason is too long (at most 300 characters)."],
  ])("%s", (said, written) => expect(sentence(said)).toBe(written));
});

describe("how long ago", () => {
  const now = Date.UTC(2026, 0, 2);
  it.each([
    [10, "just now"],
    [60, "1 minute ago"],
    [3000, "50 minutes ago"],
    [7200, "2 hours ago"],
    [3 * 86400, "3 days ago"],
  ])("%s seconds", (seconds, written) => expect(ago(new Date(now - seconds * 1000), now)).toBe(written));
});

it.each([
  [312e6, "312\u00a0MB"],
  [999_900_000, "1.0\u00a0GB"],
  [4.83e9, "4.8\u00a0GB"],
  [150.75e9, "151\u00a0GB"],
])("%s bytes are %s", (bytes, words) => {
  expect(size(bytes)).toBe(words);
});
