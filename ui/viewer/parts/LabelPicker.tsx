/** One of a model's categories, or a new one: type to find, Enter takes the first. */
import { useId, useState } from "react";
import "./LabelPicker.css";

interface Props {
  categories: readonly string[];
  value: string | null;
  onChange: (label: string | null) => void;
  onEnter: () => void;
}

export function LabelPicker({ categories, value, onChange, onEnter }: Props) {
  const id = useId();
  const [typed, setTyped] = useState("");
  const found = matching(categories, typed);
  const isNew =
    typed.trim() !== "" && !categories.some((name) => name.toLowerCase() === typed.trim().toLowerCase());
  return (
    <div className="label-picker">
      <label htmlFor={id}>What does it show?</label>
      <input
        id={id}
        type="text"
        autoComplete="off"
        placeholder="type to find a category"
        value={typed}
        maxLength={64}
        onKeyDown={(event) => {
          if (event.key === "Enter") onEnter();
        }}
        onChange={(event) => {
          setTyped(event.target.value);
          const first = matching(categories, event.target.value)[0];
          onChange(event.target.value.trim() === "" ? null : (first ?? event.target.value.trim()));
        }}
      />
      <fieldset className="label-picker-all">
        <legend className="aloud">Categories</legend>
        {found.slice(0, 60).map((name) => (
          <button key={name} type="button" aria-pressed={name === value} onClick={() => onChange(name)}>
            {name}
          </button>
        ))}
        {isNew && (
          <button
            type="button"
            aria-pressed={value === typed.trim()}
            onClick={() => onChange(typed.trim())}
            className="label-picker-new"
          >
            new: {typed.trim()}
          </button>
        )}
      </fieldset>
      <p className="small soft" role="status">
        {value === null ? "Nothing chosen yet." : `Chosen: ${value}`}
      </p>
    </div>
  );
}

/** The very name first, then those that begin with it. */
export function matching(categories: readonly string[], typed: string): string[] {
  const wanted = typed.trim().toLowerCase();
  const has = categories.filter((name) => name.toLowerCase().includes(wanted));
  const place = (name: string) => {
    const low = name.toLowerCase();
    return low === wanted ? 0 : low.startsWith(wanted) ? 1 : 2;
  };
  return has.toSorted((a, b) => place(a) - place(b));
}
