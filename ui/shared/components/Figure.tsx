/** A number with its unit and name: <Figure name="Corrections waiting" value="7" unit="of 10" />, in a <dl className="figures">. */
import type { ReactNode } from "react";
import "./Figure.css";

interface Props {
  name: string;
  value: ReactNode;
  unit?: string;
  /** Below it: an interval, a change. */
  note?: ReactNode;
}

export function Figure({ name, value, unit, note }: Props) {
  return (
    <div className="figure">
      <dt className="figure-name">{name}</dt>
      <dd>
        <span className="figure-value number">{value}</span>
        {unit && <span className="figure-unit"> {unit}</span>}
        {note !== undefined && <div className="figure-note">{note}</div>}
      </dd>
    </div>
  );
}
