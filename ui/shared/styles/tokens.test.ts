import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";

const css = readFileSync(resolve(import.meta.dirname, "tokens.css"), "utf8");

/** The custom properties of the nth block that begins so. */
function block(selector: string): Record<string, string> {
  const start = css.indexOf(`${selector} {`);
  expect(start).toBeGreaterThan(-1);
  const body = css.slice(start, css.indexOf("}", start));
  return Object.fromEntries(
    [...body.matchAll(/--([\w-]+):\s*([^;]+);/g)].map(([, name, value]) => [name, value]),
  );
}

const light = block(":root");
const dark = block(':root[data-theme="dark"]');

function luminance(colour: string): number {
  const [r = 0, g = 0, b = 0] = [1, 3, 5].map((at) => {
    const share = Number.parseInt(colour.slice(at, at + 2), 16) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one: string, two: string): number {
  const [low = 0, high = 0] = [luminance(one), luminance(two)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

it("dark is the same whether chosen or the system's", () => {
  expect(block(':root:not([data-theme="light"])')).toEqual(dark);
});

describe.each([
  ["light", light],
  ["dark", { ...light, ...dark }],
])("in %s", (_, colours) => {
  const grounds = ["paper", "sheet", "tint"];
  const texts = ["ink", "ink-soft", "accent", "accent-strong"];
  it.each(texts.flatMap((text) => grounds.map((ground) => [text, ground] as const)))(
    "text in %s can be read on %s",
    (text, ground) =>
      expect(contrast(colours[text] ?? "", colours[ground] ?? "")).toBeGreaterThanOrEqual(4.5),
  );

  it.each(["good", "bad", "warn", "busy", "idle"])("the state %s can be read", (tone) => {
    for (const ground of [`${tone}-tint`, "paper", "sheet"]) {
      expect(contrast(colours[tone] ?? "", colours[ground] ?? ""), ground).toBeGreaterThanOrEqual(4.5);
    }
  });

  it("the primary button can be read, borders and focus can be seen", () => {
    expect(contrast(colours["on-accent"] ?? "", colours.accent ?? "")).toBeGreaterThanOrEqual(4.5);
    expect(contrast(colours["on-accent"] ?? "", colours["accent-strong"] ?? "")).toBeGreaterThanOrEqual(4.5);
    expect(contrast(colours.ink ?? "", colours["bad-tint"] ?? "")).toBeGreaterThanOrEqual(4.5);
    for (const ground of ["paper", "sheet"]) {
      expect(contrast(colours["line-strong"] ?? "", colours[ground] ?? "")).toBeGreaterThanOrEqual(3);
      expect(contrast(colours.focus ?? "", colours[ground] ?? "")).toBeGreaterThanOrEqual(3);
    }
  });
});
