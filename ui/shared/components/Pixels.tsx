/**
 * A small image drawn sharp: from an address, or from bytes that this page made (28x28 grey, 255 = ink).
 *
 *   <Pixels src={gateway.url(...)} alt="a cat, said someone" size={96} />      <Pixels grey={rasterise(strokes)} alt="..." />
 */
import { useEffect, useRef } from "react";
import "./Pixels.css";

interface Props {
  alt: string;
  /** Shown this wide and high, in CSS pixels. */
  size?: number;
  src?: string;
  /** One byte a pixel, row by row. */
  grey?: Uint8Array;
  /** Pixels along its side. */
  side?: number;
}

export function Pixels({ alt, size = 84, src, grey, side = 28 }: Props) {
  const style = { width: size, height: size };
  if (grey !== undefined) return <Grey alt={alt} grey={grey} side={side} style={style} />;
  return (
    <img className="pixels" src={src} alt={alt} width={size} height={size} style={style} loading="lazy" />
  );
}

function Grey({
  alt,
  grey,
  side,
  style,
}: {
  alt: string;
  grey: Uint8Array;
  side: number;
  style: { width: number; height: number };
}) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    const image = context.createImageData(side, side);
    for (let pixel = 0; pixel < side * side; pixel++) {
      image.data.fill(grey[pixel] ?? 0, 4 * pixel, 4 * pixel + 3);
      image.data[4 * pixel + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }, [grey, side]);
  return (
    <canvas
      ref={canvas}
      className="pixels"
      role="img"
      aria-label={alt}
      width={side}
      height={side}
      style={style}
    />
  );
}
