/**
 * Measured values with their 95 % intervals on one scale, as points with whiskers.
 *
 *   <Intervals rows={[{ name: "Version 3", value: 88.3, low: 84.3, high: 91.4, strong: true }]} unit="%" />
 *
 * `zero`: a line there, for differences.
 */
import "./Intervals.css";

export interface IntervalRow {
  name: string;
  value: number;
  low: number | null;
  high: number | null;
  note?: string;
  strong?: boolean;
  tone?: "good" | "bad" | undefined;
}

interface Props {
  rows: readonly IntervalRow[];
  unit: string;
  zero?: boolean;
  /** Written with a sign. */
  signed?: boolean;
  limits?: readonly [number, number];
}

export function Intervals({ rows, unit, zero = false, signed = false, limits }: Props) {
  const [from, to] = span(rows, zero, limits);
  const at = (value: number) => `${(100 * (value - from)) / (to - from)}%`;
  const write = (value: number) => `${signed && value > 0 ? "+" : ""}${value.toFixed(1).replace("-", "−")}`;
  const ticks = ticksOf(from, to);
  return (
    <div className="intervals">
      <ul>
        {rows.map(({ name, value, low, high, note, strong, tone }) => (
          <li key={name} className="intervals-row" data-strong={strong || undefined} data-tone={tone}>
            <span className="intervals-name">
              {name}
              {note && <span className="small soft"> {note}</span>}
            </span>
            <span className="intervals-track" aria-hidden="true">
              {zero && <span className="intervals-zero" style={{ left: at(0) }} />}
              {low !== null && high !== null && (
                <span
                  className="intervals-line"
                  style={{ left: at(low), right: `calc(100% - ${at(high)})` }}
                />
              )}
              <span className="intervals-point" style={{ left: at(value) }} />
            </span>
            <span className="intervals-figure number">
              {write(value)} {unit}
              {low !== null && high !== null && (
                <span className="small soft">
                  {write(low)} to {write(high)}
                </span>
              )}
            </span>
          </li>
        ))}
      </ul>
      <div className="intervals-row intervals-axis" aria-hidden="true">
        <span />
        <span className="intervals-track">
          {ticks.map((tick) => (
            <span key={tick} className="intervals-tick small soft number" style={{ left: at(tick) }}>
              {`${signed && tick > 0 ? "+" : ""}${String(tick).replace("-", "−")}`}
            </span>
          ))}
        </span>
        <span />
      </div>
    </div>
  );
}

function span(
  rows: readonly IntervalRow[],
  zero: boolean,
  limits: readonly [number, number] | undefined,
): [number, number] {
  const all = rows.flatMap(({ value, low, high }) => [value, low ?? value, high ?? value]);
  if (zero) all.push(0);
  const low = Math.min(...all);
  const high = Math.max(...all);
  const room = Math.max((high - low) * 0.12, 0.5);
  return [Math.max(low - room, limits?.[0] ?? -Infinity), Math.min(high + room, limits?.[1] ?? Infinity)];
}

/** Three to six round numbers within. */
export function ticksOf(from: number, to: number): number[] {
  const rough = (to - from) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((by) => by * power).find((one) => one >= rough) ?? rough;
  const ticks: number[] = [];
  for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step)
    ticks.push(Number(tick.toPrecision(6)));
  return ticks;
}
