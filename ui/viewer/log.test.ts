import { expect, test } from "vitest";
import { LogText } from "./log.ts";

function log(...pieces: string[]): LogText {
  const text = new LogText();
  for (const piece of pieces) text.append(piece);
  return text;
}

const looks = (text: LogText, index: number) =>
  text.spans(index).map(({ text, colour, bold }) => [text, colour, bold]);

test("lines that come in pieces are whole again", () => {
  const text = log("one\ntw", "o\nthr", "ee");
  expect(text.length).toBe(3);
  expect(String(text)).toBe("one\ntwo\nthree");
});

test("nothing is no line", () => {
  expect(log("").length).toBe(0);
  expect(log("a\n").length).toBe(1);
});

test("colours and weight are followed", () => {
  expect(looks(log("\x1b[1;31mbad\x1b[0m news"), 0)).toEqual([
    ["bad", "red", true],
    [" news", null, false],
  ]);
});

test("a colour goes on to the next line, also when its escape is cut in two", () => {
  const text = log("a \x1b[3", "2mgreen\nstill\x1b[0m not\nplain\n");
  expect(looks(text, 1)).toEqual([
    ["still", "green", false],
    [" not", null, false],
  ]);
  expect(looks(text, 2)).toEqual([["plain", null, false]]);
});

test("of many colours the nearest of eight is taken", () => {
  expect(looks(log("\x1b[38;2;250;20;10mred\x1b[38;5;21mblue\x1b[38;5;240mgrey"), 0)).toEqual([
    ["red", "red", false],
    ["blue", "blue", false],
    ["grey", "black", false],
  ]);
});

test("other escapes are left out", () => {
  expect(log("\x1b]0;title\x07a\x1b[2Kb\x1b[?25lc\x1b(Bd").plain(0)).toBe("abcd");
});

test("a carriage return begins the line anew", () => {
  const text = log("10 %\r50 %\r100 %\r\nend\r\n");
  expect([text.plain(0), text.plain(1)]).toEqual(["100 %", "end"]);
});

test("finding does not care for capitals nor colours", () => {
  expect(log("Epoch 1\nx\n\x1b[1mep\x1b[0moch 2").find("EPOCH")).toEqual([0, 2]);
  expect(log("a").find("")).toEqual([]);
});

test("100,000 lines are taken in and searched within a second", () => {
  const begun = performance.now();
  const text = log("\x1b[32minfo\x1b[0m epoch 3/40: loss 0.761, validation 58.49 %\n".repeat(100_000));
  expect(text.find("validation 58")).toHaveLength(100_000);
  expect(performance.now() - begun).toBeLessThan(1_000);
});
