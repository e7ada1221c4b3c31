import { describe, expect, it } from "vitest";
import fixtures from "./fixtures.json";
import { rasterise, type Stroke } from "./rasterise.ts";

const drawings = fixtures.drawings.map(({ name, strokes, pixels }) => ({
  name,
  strokes: strokes as unknown as Stroke[],
  pixels: Uint8Array.from(atob(pixels), (character) => character.charCodeAt(0)),
}));

function furthest(one: Uint8Array, two: Uint8Array): number {
  return one.reduce((most, value, at) => Math.max(most, Math.abs(value - (two[at] ?? Number.NaN))), 0);
}

describe("the same strokes as in Python", () => {
  it("are compared over enough drawings", () => {
    expect(drawings.length).toBeGreaterThanOrEqual(200);
  });

  it.each(drawings)("give pixels within 1 of 255: $name", ({ strokes, pixels }) => {
    expect(furthest(rasterise(strokes), pixels)).toBeLessThanOrEqual(1);
  });
});

describe("a drawing", () => {
  const cat: Stroke[] = [
    [
      [0, 0],
      [40, 90],
      [90, 10],
    ],
    [[33, 33]],
  ];

  it("with nothing in it is all paper", () => {
    expect(Math.max(...rasterise([]))).toBe(0);
    expect(Math.max(...rasterise([[]]))).toBe(0);
  });

  it("has the same pixels wherever and however large it was drawn", () => {
    const moved = cat.map((stroke) => stroke.map(([x, y]) => [x * 0.125 + 1024, y * 0.125 - 512] as const));
    expect(furthest(rasterise(moved), rasterise(cat))).toBeLessThanOrEqual(1);
  });

  it("drawn twice over is the same", () => {
    expect(furthest(rasterise([...cat, ...cat]), rasterise(cat))).toBeLessThanOrEqual(1);
  });

  it("of one dot is a disc in the middle", () => {
    const pixels = rasterise([[[5, 5]]]);
    const ink = pixels.reduce((sum, value) => sum + value, 0);
    expect(ink / (255 * Math.PI * ((8 * 28) / 304) ** 2)).toBeCloseTo(1, 2);
  });

  it("with NaN in it is refused", () => {
    expect(() => rasterise([[[0, Number.NaN]]])).toThrow(RangeError);
  });
});
