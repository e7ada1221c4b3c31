/**
 * What is on the canvas: strokes, undo, redo. Positions are thousandths of the canvas's side, so it may be resized.
 *
 *   sketch.begin([x, y]); sketch.extend([[x, y], ...]); sketch.end();
 *   const { strokes, canUndo } = useSketch(sketch);
 */
import { useSyncExternalStore } from "react";
import type { Point, Stroke } from "../../shared/drawing/rasterise.ts";
import { longerSide } from "../../shared/drawing/simplify.ts";

export const SIDE = 1000;
const LEAST_SIDE = 60; // smaller is a slip of the pen: scaled up to the model's 28 pixels it would be anything
const MOST_STEPS = 200;

export interface Drawn {
  strokes: readonly Stroke[];
  canUndo: boolean;
  canRedo: boolean;
  /** Counts finished changes. */
  revision: number;
}

export class Sketch {
  /** Finished strokes. */
  drawn: Drawn = { strokes: [], canUndo: false, canRedo: false, revision: 0 };
  /** The one under the pen. */
  current: Point[] | null = null;
  private past: (readonly Stroke[])[] = [];
  private future: (readonly Stroke[])[] = [];
  private readonly watchers = new Set<() => void>();
  private readonly inkWatchers = new Set<() => void>();

  get strokes(): readonly Stroke[] {
    return this.current === null ? this.drawn.strokes : [...this.drawn.strokes, this.current];
  }

  begin(point: Point): void {
    this.current = [point];
    this.inked();
  }

  extend(points: readonly Point[]): void {
    if (this.current === null || points.length === 0) return;
    this.current.push(...points);
    this.inked();
  }

  end(): void {
    if (this.current === null) return;
    const stroke = this.current;
    this.current = null;
    this.become([...this.drawn.strokes, stroke]);
  }

  /** Takes the stroke under the pen away when there is one, else the last change. */
  undo(): void {
    if (this.dropCurrent()) return;
    const before = this.past.pop();
    if (before === undefined) return;
    this.future.push(this.drawn.strokes);
    this.show(before);
  }

  redo(): void {
    const after = this.future.pop();
    if (after === undefined) return;
    this.past.push(this.drawn.strokes);
    this.show(after);
  }

  /** Can be undone. */
  clear(): void {
    this.dropCurrent();
    if (this.drawn.strokes.length > 0) this.become([]);
  }

  /** After a finished change. */
  watch = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  /** After every change, also while the pen is down. */
  watchInk(watcher: () => void): () => void {
    this.inkWatchers.add(watcher);
    return () => this.inkWatchers.delete(watcher);
  }

  /** Whether there was one. */
  private dropCurrent(): boolean {
    if (this.current === null) return false;
    this.current = null;
    this.show(this.drawn.strokes);
    return true;
  }

  private become(strokes: readonly Stroke[]): void {
    this.past.push(this.drawn.strokes);
    if (this.past.length > MOST_STEPS) this.past.shift();
    this.future = [];
    this.show(strokes);
  }

  private show(strokes: readonly Stroke[]): void {
    this.drawn = {
      strokes,
      canUndo: this.past.length > 0,
      canRedo: this.future.length > 0,
      revision: this.drawn.revision + 1,
    };
    for (const watcher of this.watchers) watcher();
    this.inked();
  }

  private inked(): void {
    for (const watcher of this.inkWatchers) watcher();
  }
}

/** Nothing, a dot, or a slip: not worth an answer. */
export function isNearlyEmpty(strokes: readonly Stroke[]): boolean {
  return longerSide(strokes) < LEAST_SIDE;
}

export function useSketch(sketch: Sketch): Drawn {
  return useSyncExternalStore(sketch.watch, () => sketch.drawn);
}
