/**
 * Fewer points, the same drawing: what Quick, Draw! did to its strokes before it made the bitmaps models learn from
 * (Ramer, Douglas and Peucker, at most 2 units off when the drawing's longer side is 255). A pen that reports 240 points
 * a second would else make the exact rasteriser slow.
 */
import type { Point, Stroke } from "./rasterise.ts";

const OFF_UNITS = 2;
const LONGER_SIDE = 255;

export function simplify(strokes: readonly Stroke[]): Stroke[] {
  const most = (longerSide(strokes) / LONGER_SIDE) * OFF_UNITS;
  return strokes.map((stroke) => thinned(stroke, most));
}

/** Of the box around everything, in the strokes' own unit; 0 for nothing and for one point. */
export function longerSide(strokes: readonly Stroke[]): number {
  let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const stroke of strokes) {
    for (const [x, y] of stroke) {
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y);
    }
  }
  return right < left ? 0 : Math.max(right - left, bottom - top);
}

function thinned(stroke: Stroke, most: number): Stroke {
  if (stroke.length < 3) return stroke;
  const kept = new Uint8Array(stroke.length);
  kept[0] = 1;
  kept[stroke.length - 1] = 1;
  const open: [number, number][] = [[0, stroke.length - 1]];
  for (let part = open.pop(); part !== undefined; part = open.pop()) {
    const [first, last] = part;
    let [furthest, at] = [most, -1];
    for (let point = first + 1; point < last; point++) {
      const off = distance(stroke[point] as Point, stroke[first] as Point, stroke[last] as Point);
      if (off > furthest) [furthest, at] = [off, point];
    }
    if (at < 0) continue;
    kept[at] = 1;
    open.push([first, at], [at, last]);
  }
  return stroke.filter((_, point) => kept[point] === 1);
}

/** From a point to a stretch. */
function distance([x, y]: Point, [ax, ay]: Point, [bx, by]: Point): number {
  const [dx, dy] = [bx - ax, by - ay];
  const length = dx * dx + dy * dy;
  const at = length === 0 ? 0 : Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / length, 0), 1);
  return Math.hypot(x - ax - at * dx, y - ay - at * dy);
}
