import { expect, it } from "vitest";
import { type Point, rasterise, type Stroke } from "../../shared/drawing/rasterise.ts";
import { variant } from "./variants.ts";

const house: Stroke[] = [
  [[200, 800], [200, 400], [500, 150], [800, 400], [800, 800], [200, 800]], // biome-ignore format: one stroke
  [[450, 800], [450, 600], [550, 600], [550, 800]], // biome-ignore format: one stroke
  [[650, 500] as Point], // biome-ignore format: one stroke
];
const pixels = (number: number) => rasterise(variant(house, number));

it("makes the same variant again", () => {
  expect(pixels(3)).toEqual(pixels(3));
});

it("makes every variant another picture, and none the drawing itself", () => {
  const pictures = Array.from({ length: 60 }, (_, number) => pixels(number).join());
  expect(new Set([...pictures, rasterise(house).join()]).size).toBe(61);
});

it("keeps the drawing's character: ink stays mostly where it was, and the strokes' number", () => {
  const drawn = rasterise(house);
  for (let number = 0; number < 60; number++) {
    expect(variant(house, number)).toHaveLength(house.length);
    const picture = pixels(number);
    const ink = (of: Uint8Array) => of.reduce((sum, pixel) => sum + pixel, 0);
    expect(ink(picture) / ink(drawn)).toBeGreaterThan(0.7);
    expect(ink(picture) / ink(drawn)).toBeLessThan(1.4);
  }
});

it("takes a dot and nothing", () => {
  expect(variant([[[5, 5]]], 1)).toHaveLength(1);
  expect(variant([], 1)).toEqual([]);
});
