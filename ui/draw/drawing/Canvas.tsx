/**
 * The sheet one draws on, with mouse, pen or finger. A move paints only its own piece of line, without React: that is
 * what keeps it at 60 frames a second. Everything is painted anew only when a stroke goes away, or size or theme change.
 */
import { type RefObject, useEffect, useRef } from "react";
import type { Point, Stroke } from "../../shared/drawing/rasterise.ts";
import { SIDE, type Sketch, useSketch } from "./sketch.ts";
import "./Canvas.css";

const LINE_SHARE = 0.026; // of the side: thinner than what the model sees, so that one can draw details
const DOT_LENGTH = 0.01; // thousandths of the side: browsers paint no line that goes nowhere

export function Canvas({ sketch }: { sketch: Sketch }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const { strokes } = useSketch(sketch);
  usePen(canvas, sketch);
  usePaint(canvas, sketch);
  const count = strokes.length;
  return (
    <div className="canvas" data-empty={count === 0 || undefined}>
      <canvas
        ref={canvas}
        role="img"
        aria-label={
          count === 0
            ? "An empty sheet to draw on, with a pen, a finger or a mouse"
            : `Your drawing: ${count} ${count === 1 ? "stroke" : "strokes"}`
        }
      />
      <p className="canvas-hint" aria-hidden="true">
        Draw here
      </p>
    </div>
  );
}

function usePen(canvas: RefObject<HTMLCanvasElement | null>, sketch: Sketch): void {
  useEffect(() => {
    const element = canvas.current;
    const context = element?.getContext("2d");
    if (!element || !context) return;
    let pen: number | null = null;
    let box = element.getBoundingClientRect();

    const at = (event: PointerEvent): Point => [
      ((event.clientX - box.left) / box.width) * SIDE,
      ((event.clientY - box.top) / box.height) * SIDE,
    ];

    const down = (event: PointerEvent) => {
      if (pen !== null || event.button !== 0) return;
      event.preventDefault(); // no text selected, no focus lost
      pen = event.pointerId;
      element.setPointerCapture(pen);
      box = element.getBoundingClientRect();
      const point = at(event);
      sketch.begin(point);
      paint(context, [[point]]);
    };

    const move = (event: PointerEvent) => {
      if (event.pointerId !== pen || sketch.current === null) return; // taken away under the pen
      const all = event.getCoalescedEvents?.() ?? [];
      const points = (all.length > 0 ? all : [event]).map(at);
      const last = sketch.current.at(-1);
      paint(context, [last === undefined ? points : [last, ...points]]);
      sketch.extend(points);
    };

    const up = (event: PointerEvent) => {
      if (event.pointerId !== pen) return;
      pen = null;
      sketch.end();
    };

    element.addEventListener("pointerdown", down);
    element.addEventListener("pointermove", move);
    element.addEventListener("pointerup", up);
    element.addEventListener("pointercancel", up);
    element.addEventListener("lostpointercapture", up);
    return () => {
      if (pen !== null) sketch.end();
      element.removeEventListener("pointerdown", down);
      element.removeEventListener("pointermove", move);
      element.removeEventListener("pointerup", up);
      element.removeEventListener("pointercancel", up);
      element.removeEventListener("lostpointercapture", up);
    };
  }, [canvas, sketch]);
}

function usePaint(canvas: RefObject<HTMLCanvasElement | null>, sketch: Sketch): void {
  useEffect(() => {
    const element = canvas.current;
    const context = element?.getContext("2d");
    if (!element || !context) return;
    const all = () => {
      const style = getComputedStyle(element);
      context.setTransform(element.width / SIDE, 0, 0, element.height / SIDE, 0, 0);
      context.clearRect(0, 0, SIDE, SIDE);
      context.strokeStyle = style.color;
      context.lineWidth = LINE_SHARE * SIDE;
      context.lineCap = "round";
      context.lineJoin = "round";
      paint(context, sketch.strokes);
    };

    const resized = () => {
      const side = Math.round(element.clientWidth * devicePixelRatio);
      if (side === 0) return;
      if (element.width !== side) {
        element.width = side;
        element.height = side;
      }
      all();
    };

    resized();
    const sizes = new ResizeObserver(resized);
    sizes.observe(element);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", all);
    const theme = new MutationObserver(all);
    theme.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    const unwatch = sketch.watch(all);
    return () => {
      unwatch();
      sizes.disconnect();
      theme.disconnect();
      dark.removeEventListener("change", all);
    };
  }, [canvas, sketch]);
}

function paint(context: CanvasRenderingContext2D, strokes: readonly Stroke[]): void {
  context.beginPath();
  for (const stroke of strokes) {
    const [first, ...rest] = stroke;
    if (first === undefined) continue;
    context.moveTo(...first);
    if (rest.length === 0) context.lineTo(first[0] + DOT_LENGTH, first[1]);
    for (const point of rest) context.lineTo(...point);
  }
  context.stroke();
}
