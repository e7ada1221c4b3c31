import { expect, it, vi } from "vitest";
import { isNearlyEmpty, Sketch } from "./sketch.ts";

function line(sketch: Sketch, length: number): void {
  sketch.begin([0, 0]);
  sketch.extend([[length, 0]]);
  sketch.end();
}

it("undoes and redoes strokes, and a clear", () => {
  const sketch = new Sketch();
  line(sketch, 100);
  line(sketch, 200);
  const both = sketch.strokes;
  sketch.clear();
  expect(sketch.strokes).toEqual([]);
  sketch.undo();
  expect(sketch.strokes).toEqual(both);
  sketch.undo();
  expect(sketch.strokes).toHaveLength(1);
  sketch.redo();
  expect(sketch.strokes).toEqual(both);
  expect(sketch.drawn).toMatchObject({ canUndo: true, canRedo: true });
});

it("forgets what was undone once something else is drawn", () => {
  const sketch = new Sketch();
  line(sketch, 100);
  sketch.undo();
  line(sketch, 300);
  sketch.redo();
  expect(sketch.strokes).toEqual([
    [
      [0, 0],
      [300, 0],
    ],
  ]);
});

it("shows the stroke under the pen, and tells of each move but of one finished change", () => {
  const sketch = new Sketch();
  const [finished, inked] = [vi.fn(), vi.fn()];
  sketch.watch(finished);
  sketch.watchInk(inked);
  sketch.begin([1, 1]);
  sketch.extend([[2, 2]]);
  expect(sketch.strokes).toHaveLength(1);
  expect(finished).not.toHaveBeenCalled();
  sketch.end();
  expect(finished).toHaveBeenCalledOnce();
  expect(inked).toHaveBeenCalledTimes(3);
});

it("undo and clear take the stroke under the pen away, and what the pen does next is nothing", () => {
  for (const act of ["undo", "clear"] as const) {
    const sketch = new Sketch();
    const finished = vi.fn();
    sketch.begin([0, 0]);
    sketch.extend([[100, 0]]);
    sketch.watch(finished);
    sketch[act]();
    expect(finished).toHaveBeenCalledOnce(); // the sheet is painted anew
    sketch.extend([[200, 0]]);
    sketch.end();
    expect(sketch.strokes).toEqual([]);
    expect(sketch.drawn.canUndo).toBe(false);
  }
});

it("a clear of nothing is no step", () => {
  const sketch = new Sketch();
  sketch.clear();
  expect(sketch.drawn.canUndo).toBe(false);
});

it("takes a dot and a slip for nothing", () => {
  expect(isNearlyEmpty([])).toBe(true);
  expect(isNearlyEmpty([[[500, 500]]])).toBe(true);
  expect(isNearlyEmpty([[[500, 500], [540, 520]]])).toBe(true); // biome-ignore format: one stroke
  expect(isNearlyEmpty([[[500, 500], [640, 520]]])).toBe(false); // biome-ignore format: one stroke
});
