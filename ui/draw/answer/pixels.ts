/** The very pixels of an image that the gateway sends, to ask another version about them. */
import type { Model } from "../model.tsx";

type Input = Model["input"];

/** Raw bytes as /invocations/ takes them: row by row, one byte a pixel, three when the model sees colour. */
export async function pixelsAt(url: string, input: Input, signal: AbortSignal): Promise<Uint8Array> {
  const response = await fetch(url, { signal });
  if (!response.ok) throw new Error(`The picture is gone (status ${response.status}).`);
  const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
  const canvas = document.createElement("canvas");
  canvas.width = input.width;
  canvas.height = input.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (context === null) throw new Error("This browser has no canvas.");
  context.drawImage(bitmap, 0, 0);
  return channels(context.getImageData(0, 0, input.width, input.height).data, input.mode);
}

export function channels(rgba: Uint8ClampedArray, mode: Input["mode"]): Uint8Array {
  const each = mode === "L" ? 1 : 3;
  const raw = new Uint8Array((rgba.length / 4) * each);
  for (let pixel = 0; pixel < rgba.length / 4; pixel++) {
    for (let channel = 0; channel < each; channel++) {
      raw[each * pixel + channel] = rgba[4 * pixel + channel] ?? 0;
    }
  }
  return raw;
}
