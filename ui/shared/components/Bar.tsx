/**
 * A share as a bar, with its figure: a probability, a recall. `interval`: the 95 % interval as a line over it.
 *
 *   <Bar name="cat" share={0.83} />     <Bar name="cat" share={0.71} interval={[0.66, 0.76]} before={0.64} />
 */
import { percent } from "../format.ts";
import "./Bar.css";

interface Props {
  name: string;
  /** 0 to 1. */
  share: number;
  interval?: readonly [number, number] | undefined;
  /** What it was before: a mark. */
  before?: number | undefined;
  /** The one that counts. */
  strong?: boolean;
}

export function Bar({ name, share, interval, before, strong = false }: Props) {
  const said = [
    percent(share),
    interval && `95 % interval ${percent(interval[0])} to ${percent(interval[1])}`,
    before !== undefined && `before ${percent(before)}`,
  ].filter(Boolean);
  return (
    <div className={strong ? "bar bar-strong" : "bar"}>
      <span className="bar-name">{name}</span>
      <span className="bar-track" aria-hidden="true">
        <span className="bar-fill" style={{ transform: `scaleX(${clamp(share)})` }} />
        {interval && (
          <span
            className="bar-interval"
            style={{ left: at(interval[0]), width: at(interval[1] - interval[0]) }}
          />
        )}
        {before !== undefined && <span className="bar-before" style={{ left: at(before) }} />}
      </span>
      <span className="bar-figure number" aria-hidden="true">
        {percent(share)}
      </span>
      <span className="aloud">{said.join(", ")}</span>
    </div>
  );
}

function clamp(share: number): number {
  return Math.min(Math.max(share, 0), 1);
}

function at(share: number): string {
  return `${100 * clamp(share)}%`;
}
