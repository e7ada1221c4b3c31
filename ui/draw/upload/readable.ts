/** Files as the gateway takes them: PNG, JPEG and WebP as they are, what else the browser can show as PNG. */

export const KEPT_SIDE = 1024; // core/images.py keeps no more of an original
const LARGEST_BYTES = 4_000_000; // base64 makes a third more of it; the gateway takes 10 MB
const AS_THEY_ARE = new Set(["image/png", "image/jpeg", "image/webp"]);

export class Unreadable extends Error {
  override readonly name = "Unreadable";
}

/** Raises Unreadable, which says what the matter is. */
export async function readable(file: File): Promise<Blob> {
  if (file.size === 0) throw new Unreadable("the file is empty");
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Unreadable(
      isPicture(file) ? "the picture is damaged or of an unknown kind" : "it is no picture",
    );
  }
  try {
    if (AS_THEY_ARE.has(file.type) && file.size <= LARGEST_BYTES) return file;
    return await smaller(bitmap, file.type === "image/jpeg" ? "image/jpeg" : "image/png");
  } finally {
    bitmap.close();
  }
}

/** Width and height with the longer side at most KEPT_SIDE. */
export function fitted(width: number, height: number): [width: number, height: number] {
  const scale = Math.min(1, KEPT_SIDE / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

async function smaller(bitmap: ImageBitmap, type: string): Promise<Blob> {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = fitted(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  if (context === null) throw new Unreadable("this browser cannot make it smaller");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const made = await new Promise<Blob | null>((done) => canvas.toBlob(done, type, 0.95));
  if (made === null) throw new Unreadable("this browser cannot make it smaller");
  return made;
}

function isPicture(file: File): boolean {
  return file.type.startsWith("image/");
}
