/**
 * The likeliest categories while they change from stroke to stroke: each keeps its element, its place and its length are
 * transforms, so nothing flickers and nothing is laid out anew. Read aloud is only what `Verdict` says.
 */
import { percent } from "../../shared/format.ts";
import "./Bars.css";

const SHOWN = 6;
const ROW_REM = 2.125; // whole pixels: half ones blur
const KEPT = 24; // with so few categories every one keeps its element

interface Props {
  probabilities: Readonly<Record<string, number>> | null;
  /** A draft: still moving. */
  pale?: boolean;
  shown?: number;
}

export function Bars({ probabilities, pale = false, shown = SHOWN }: Props) {
  const likeliest = Object.entries(probabilities ?? {})
    .sort(([, one], [, other]) => other - one)
    .slice(0, KEPT);
  const places = new Map(likeliest.map(([label], place) => [label, place]));
  const rows = likeliest.sort(([one], [other]) => (one < other ? -1 : 1)); // elements that move about lose their transition
  return (
    <div
      className="bars"
      data-pale={pale || undefined}
      style={{ height: `${ROW_REM * shown}rem` }}
      aria-hidden="true"
    >
      {Array.from({ length: shown }, (_, place) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: they are places
        <span key={place} className="bars-place" style={{ transform: `translateY(${ROW_REM * place}rem)` }} />
      ))}
      {rows.map(([label, share]) => {
        const place = places.get(label) ?? KEPT;
        return (
          <div
            key={label}
            className="bars-row"
            data-first={place === 0 || undefined}
            style={{
              transform: `translateY(${ROW_REM * Math.min(place, shown)}rem)`,
              opacity: place < shown ? 1 : 0,
            }}
          >
            <span className="bars-name">{label}</span>
            <span className="bars-track">
              <span className="bars-fill" style={{ transform: `translateX(${100 * (share - 1)}%)` }} />
            </span>
            <span className="bars-figure number">{percent(share, 0)}</span>
          </div>
        );
      })}
    </div>
  );
}
