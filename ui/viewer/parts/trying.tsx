/**
 * Trying a version out beside the live one, and ending that: the buttons and their questions.
 *
 *   <Try model="doodles" version={7} live={6} trial={null} isRegistryAway={false} />   <EndTrial trial={trial} />
 */
import { useId, useState } from "react";
import { startTrial, type Trial, type TrialKind } from "../data.ts";
import { endTrial } from "../trials.ts";
import { AskedAction, Reason } from "./actions.tsx";
import "./trying.css";

const USUAL_PERCENT: Record<TrialKind, number> = { shadow: 100, canary: 10 }; // as on the command line

interface TryProps {
  model: string;
  version: number;
  live: number | null;
  /** What is being tried out already. */
  trial: Trial | null;
  isRegistryAway: boolean;
}

export function Try({ model, version, live, trial, isRegistryAway }: TryProps) {
  const [kind, setKind] = useState<TrialKind>("shadow");
  const [written, setWritten] = useState<string | null>(null);
  const [reason, setReason] = useState("");
  const id = useId();
  const percent = written ?? String(USUAL_PERCENT[kind]);
  return (
    <AskedAction
      name="Try out"
      label={`Try out version ${version}`}
      because={whyNoTrial(live, trial, isRegistryAway)}
      title={`Try out version ${version}?`}
      confirm={`Start the ${kind}`}
      act={async () => {
        const asked = wholePercent(percent);
        if (asked === null) throw new Error("The share must be a whole number from 1 to 100");
        const why = reason.trim() || "asked for on the page";
        await startTrial(model, kind, { version, percent: asked, reason: why });
        setReason("");
        setWritten(null);
        return `Version ${version} is tried out as a ${kind}`;
      }}
    >
      <fieldset className="trying-kinds">
        <legend>As what?</legend>
        <Kind
          group={`${id}-kind`}
          name="A shadow"
          note="is asked about copies of images; nobody sees its answers"
          isChosen={kind === "shadow"}
          choose={() => setKind("shadow")}
        />
        <Kind
          group={`${id}-kind`}
          name="A canary"
          note="answers a share of the images"
          isChosen={kind === "canary"}
          choose={() => setKind("canary")}
        />
      </fieldset>
      <div className="trying-percent">
        <label htmlFor={id}>Percent of the images</label>
        <input
          id={id}
          type="number"
          inputMode="numeric"
          min={1}
          max={100}
          value={percent}
          aria-invalid={wholePercent(percent) === null || undefined}
          onChange={(event) => setWritten(event.target.value)}
        />
      </div>
      <p>{whatWillHappen(kind, version, live, wholePercent(percent))}</p>
      <Reason
        value={reason}
        onChange={setReason}
        example="is it as good on this week’s drawings?"
        label="Why? It stands beside the figures."
      />
    </AskedAction>
  );
}

interface KindProps {
  group: string;
  name: string;
  note: string;
  isChosen: boolean;
  choose: () => void;
}

function Kind({ group, name, note, isChosen, choose }: KindProps) {
  return (
    <label className="trying-kind">
      <input type="radio" name={group} checked={isChosen} onChange={choose} />
      <span>
        <strong>{name}</strong> {note}
      </span>
    </label>
  );
}

export function wholePercent(written: string): number | null {
  const number = Number(written);
  return Number.isInteger(number) && number >= 1 && number <= 100 ? number : null;
}

export function whyNoTrial(
  live: number | null,
  trial: Trial | null,
  isRegistryAway: boolean,
): string | undefined {
  if (trial !== null) return `Version ${trial.version} is being tried out`;
  if (live === null) return "No version is live to compare it with";
  if (isRegistryAway) return "MLflow does not answer just now";
  return undefined;
}

export function whatWillHappen(
  kind: TrialKind,
  version: number,
  live: number | null,
  percent: number | null,
): string {
  const share = percent === 100 ? "all images" : `${percent ?? "…"}\u00a0% of the images`;
  if (kind === "shadow")
    return `As soon as every model server has loaded it, version ${version} is asked about copies of ${share} and compared, while version ${live} answers as before.`;
  return `As soon as every model server has loaded it, version ${version} answers ${share}, always the same ones, and goes back by itself when it fails far more often or is far slower than version ${live}.`;
}

export function EndTrial({ trial }: { trial: Trial }) {
  const [reason, setReason] = useState("");
  return (
    <AskedAction
      name="End"
      label={`End the ${trial.kind} of version ${trial.version}`}
      title={`End the ${trial.kind} of version ${trial.version}?`}
      confirm={`End the ${trial.kind}`}
      keep="Let it go on"
      act={() => endTrial(trial, reason.trim() || "ended on the page")}
    >
      <p>{whatEnds(trial)} What was counted is kept.</p>
      <Reason value={reason} onChange={setReason} example="seen enough" />
    </AskedAction>
  );
}

export function whatEnds({ kind, version, champion }: Trial): string {
  return kind === "canary"
    ? `Within seconds version ${champion} answers all images again.`
    : `Within seconds version ${version} is asked no more; version ${champion} goes on answering.`;
}
