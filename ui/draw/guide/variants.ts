/**
 * Drawings like one drawing, as the same hand might have made them: tilted, stretched, slanted, its strokes a little
 * apart and a little wavy. The same drawing and number give the same variant, always.
 */
import type { Point, Stroke } from "../../shared/drawing/rasterise.ts";
import { longerSide } from "../../shared/drawing/simplify.ts";

const TILT = 0.3; // radians, either way
const STRETCH = 0.22; // of one side against the other, as a power of e
const SLANT = 0.22;
const APART = 0.035; // of the longer side: how far a stroke moves by itself
const WAVE = 0.025; // of the longer side
const STEP = 0.04; // of the longer side: long lines get points, so that they can be wavy

export function variant(strokes: readonly Stroke[], number: number): Stroke[] {
  const side = longerSide(strokes);
  const random = randomOf(number);
  const about = (most: number) => (2 * random() - 1) * most;
  const [tilt, stretch, slant] = [about(TILT), Math.exp(about(STRETCH)), about(SLANT)];
  const [cos, sin] = [Math.cos(tilt), Math.sin(tilt)];
  const waves = [waveOf(random, side), waveOf(random, side)] as const;
  return strokes.map((stroke) => {
    const [apartX, apartY] = [about(APART * side), about(APART * side)];
    return filled(stroke, STEP * side).map(([x, y]): Point => {
      const wavyX = x + waves[0](x, y) + apartX;
      const wavyY = y + waves[1](x, y) + apartY;
      const [sx, sy] = [(wavyX + slant * wavyY) * stretch, wavyY / stretch];
      return [cos * sx - sin * sy, sin * sx + cos * sy];
    });
  });
}

/** A slow wave over the sheet, in one direction. */
function waveOf(random: () => number, side: number): (x: number, y: number) => number {
  const turn = 2 * Math.PI * random();
  const length = side * (0.35 + 0.5 * random());
  const [along, across] = [Math.cos(turn) / length, Math.sin(turn) / length];
  const phase = 2 * Math.PI * random();
  return (x, y) => WAVE * side * Math.sin(2 * Math.PI * (x * along + y * across) + phase);
}

/** With points at most `step` apart. */
function filled(stroke: Stroke, step: number): Stroke {
  const [first] = stroke;
  if (first === undefined || !(step > 0)) return stroke;
  const points: Point[] = [first];
  for (let at = 1; at < stroke.length; at++) {
    const [[ax, ay], [bx, by]] = [stroke[at - 1] as Point, stroke[at] as Point];
    const parts = Math.max(1, Math.ceil(Math.hypot(bx - ax, by - ay) / step));
    for (let part = 1; part <= parts; part++) {
      points.push([ax + ((bx - ax) * part) / parts, ay + ((by - ay) * part) / parts]);
    }
  }
  return points;
}

/** Mulberry32: small, fast, the same everywhere. */
function randomOf(seed: number): () => number {
  let state = Math.imul(seed + 1, 0x9e3779b9);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
