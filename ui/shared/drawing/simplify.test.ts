import { expect, it } from "vitest";
import fixtures from "./fixtures.json";
import { type Point, rasterise, type Stroke } from "./rasterise.ts";
import { longerSide, simplify } from "./simplify.ts";

it("leaves a straight line its ends", () => {
  const line: Stroke = Array.from({ length: 50 }, (_, at): Point => [at, 2 * at]);
  expect(simplify([line])).toEqual([
    [
      [0, 0],
      [49, 98],
    ],
  ]);
});

it("keeps every corner, a lone point, and a stroke that ends where it began", () => {
  const square: Stroke = [
    [0, 0],
    [100, 0],
    [100, 100],
    [0, 100],
    [0, 0],
  ];
  expect(simplify([square, [[5, 5]]])).toEqual([square, [[5, 5]]]);
});

it("changes what the model sees by little", () => {
  for (const { name, strokes } of fixtures.drawings.filter(({ name }) =>
    /^(cat|clock|flower|house)/.test(name),
  )) {
    const before = rasterise(strokes as unknown as Stroke[]);
    const after = rasterise(simplify(strokes as unknown as Stroke[]));
    const off = before.reduce((sum, pixel, at) => sum + Math.abs(pixel - (after[at] ?? 0)), 0);
    expect(off / before.length, name).toBeLessThan(8); // of 255, on average
  }
});

it("measures nothing and one point as 0", () => {
  expect(longerSide([])).toBe(0);
  expect(longerSide([[[3, 4]]])).toBe(0);
});
