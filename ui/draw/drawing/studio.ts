/** The one drawing of this page and what is asked about it; it stays while other pages are looked at. */
import { useEffect, useSyncExternalStore } from "react";
import { rasterise, type Stroke } from "../../shared/drawing/rasterise.ts";
import { simplify } from "../../shared/drawing/simplify.ts";
import type { Model } from "../model.tsx";
import { type Asked, Asker, sendTo } from "./asker.ts";
import { isNearlyEmpty, Sketch } from "./sketch.ts";

export const sketch = new Sketch();

const askers = new Map<string, Asker>();

function askerOf(model: string): Asker {
  let asker = askers.get(model);
  if (asker === undefined) {
    asker = new Asker(sendTo(model));
    askers.set(model, asker);
  }
  return asker;
}

/** What a model with inputs `side` pixels wide sees of the strokes; null for nothing worth asking. */
export function pixelsOf(strokes: readonly Stroke[], side: number): Uint8Array<ArrayBuffer> | null {
  return isNearlyEmpty(strokes) ? null : rasterise(simplify(strokes), side);
}

export function useAsked(model: Model): { asked: Asked; ask: () => void } {
  const asker = askerOf(model.name);
  const side = model.input.width;
  const asked = useSyncExternalStore(asker.watch, () => asker.state);
  useEffect(() => {
    const changed = () => asker.changed(() => pixelsOf(sketch.strokes, side), sketch.current !== null);
    if (sketch.strokes.length > 0 && asker.state.answer === null) changed();
    return sketch.watchInk(changed);
  }, [asker, side]);
  return { asked, ask: () => void asker.ask() };
}
