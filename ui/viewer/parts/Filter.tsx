/**
 * A choice that is kept in the address, one of few: <Filter name="State" parameter="status" options={[["failed", "Failed"]]} />.
 * The empty choice takes it out of the address.
 */
import { useId } from "react";
import { useParameter } from "../../shared/address.ts";
import "./Filter.css";

interface Props {
  name: string;
  parameter: string;
  /** value, word */
  options: readonly (readonly [value: string, word: string])[];
  /** The word for no choice; null when there has to be one. */
  all: string | null;
}

export function Filter({ name, parameter, options, all }: Props) {
  const id = useId();
  const [value, change] = useParameter(parameter);
  const isKnown = value === null || options.some(([known]) => known === value);
  return (
    <div className="filter" data-set={(all !== null && value !== null) || undefined}>
      <label htmlFor={id}>{name}</label>
      <select
        id={id}
        value={value ?? (all === null ? options[0]?.[0] : "")}
        onChange={(event) => change(event.target.value || null)}
      >
        {all !== null && <option value="">{all}</option>}
        {!isKnown && <option value={value}>{value}</option>}
        {options.map(([key, word]) => (
          <option key={key} value={key}>
            {word}
          </option>
        ))}
      </select>
    </div>
  );
}
