/** "Right", one click on what it is, or type it. Says a statement once, however often it is clicked. */
import { useRef } from "react";
import { Button } from "../../shared/components/Button.tsx";
import type { Model } from "../model.tsx";
import { CategoryBox } from "./CategoryBox.tsx";
import "./Correct.css";

const CLICKED = 12; // categories that can be clicked; the rest are found by typing

interface Props {
  model: Model;
  /** null: the model has not answered, but one can say what it is all the same. */
  answer: { label: string } | null;
  /** In whose order the rest is offered. */
  likely: Readonly<Record<string, number>>;
  onSay: (label: string) => void;
  /** "Right" was there before: this is for who said no, and may think better of it. */
  onBack?: (() => void) | undefined;
}

export function Correct({ model, answer, likely, onSay, onBack }: Props) {
  const said = useRef(false);
  const say = (label: string) => {
    if (said.current) return;
    said.current = true;
    onSay(label);
  };
  return (
    <div className="correct">
      {answer && !onBack && (
        <Button kind="primary" onClick={() => say(answer.label)}>
          <svg viewBox="0 0 16 16" aria-hidden="true" className="correct-tick">
            <path d="M3 8.5 6.5 12 13 4.5" />
          </svg>
          Right
        </Button>
      )}
      <fieldset className="correct-chips">
        <legend className="small soft">{answer ? "No, it is" : "It is"}</legend>
        {chips(model, answer?.label, likely).map((name) => (
          <button key={name} type="button" className="correct-chip" onClick={() => say(name)}>
            {name}
          </button>
        ))}
      </fieldset>
      <CategoryBox categories={model.categories} onChoose={say} />
      {onBack && (
        <Button kind="quiet" onClick={onBack}>
          Back
        </Button>
      )}
    </div>
  );
}

/** The likeliest first, then the rest. */
function chips(model: Model, answer: string | undefined, probabilities: Props["likely"]): string[] {
  const open = model.categories.filter(({ state }) => state !== "retired").map(({ name }) => name);
  const likely = Object.entries(probabilities)
    .sort(([, one], [, other]) => other - one)
    .map(([name]) => name)
    .filter((name) => open.includes(name));
  return [...new Set([...likely, ...open])].filter((name) => name !== answer).slice(0, CLICKED);
}
