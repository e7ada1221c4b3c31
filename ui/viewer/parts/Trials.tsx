/** What is being tried out beside the live version, with its figures, and what was. */
import { useState } from "react";
import { Button } from "../../shared/components/Button.tsx";
import { Card } from "../../shared/components/Card.tsx";
import { DataTable } from "../../shared/components/DataTable.tsx";
import { Figure } from "../../shared/components/Figure.tsx";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { type Status, StatusMark } from "../../shared/components/StatusMark.tsx";
import { count, counted, duration, minus, percent } from "../../shared/format.ts";
import type { Trial, Version } from "../data.ts";
import { type Bearing, bearing, milliseconds } from "../trials.ts";
import { Promote } from "./actions.tsx";
import "./Trials.css";
import { EndTrial } from "./trying.tsx";

const FIRST = 4;
const MARKS: Record<Bearing["tone"], readonly [Status, string]> = {
  early: ["queued", "Too early to say"],
  fine: ["succeeded", "Fine"],
  near: ["halted", "Near its bounds"],
  beyond: ["failed", "Beyond its bounds"],
};
const OUTCOMES: Record<NonNullable<Trial["outcome"]>, readonly [Status, string]> = {
  promoted: ["done", "Promoted"],
  ended: ["cancelled", "Ended"],
  failed: ["failed", "Went back by itself"],
};

interface OpenTrialProps {
  trial: Trial;
  /** Null when it is not among those that were loaded. */
  version: Version | null;
  isRegistryAway: boolean;
  /** When the figures are from, once they could not be asked for anew. */
  oldSince: number | null;
}

export function OpenTrial({ trial, version, isRegistryAway, oldSince }: OpenTrialProps) {
  const { tone, words } = bearing(trial);
  const [mark, word] = MARKS[tone];
  return (
    <section className="trial" aria-label="What is being tried out">
      <div className="trial-head">
        <div>
          <h2>{whatItDoes(trial)}</h2>
          <p className="soft">
            As a {trial.kind} beside version {trial.champion}, since <LocalTime at={trial.started_at} />, by{" "}
            {trial.started_by}: {trial.reason}
          </p>
        </div>
        <div className="row">
          <Promote
            model={trial.model}
            version={version ?? { version: trial.version }}
            live={trial.champion}
            isRegistryAway={isRegistryAway}
            trial={trial}
            label={`Promote the ${trial.kind}, version ${trial.version}`}
          />
          <EndTrial trial={trial} />
        </div>
      </div>
      <p role="status" className="trial-bearing">
        <StatusMark status={mark} word={word} /> {words}
      </p>
      {oldSince !== null && (
        <p role="status" className="trial-old small">
          The gateway does not answer just now: these figures are from{" "}
          <LocalTime at={new Date(oldSince).toISOString()} />.
        </p>
      )}
      <div className="trial-figures">
        <dl className="figures">
          <Figure
            name="Images compared"
            value={count(trial.images)}
            {...(trial.skipped > 0 && { note: `${count(trial.skipped)} left out: too many at once` })}
          />
          <Figure name="Same answer" value={trial.agreement === null ? "–" : percent(trial.agreement)} />
        </dl>
        <Sides trial={trial} />
      </div>
    </section>
  );
}

function whatItDoes({ kind, version, percent: share }: Trial): string {
  const images = share === 100 ? "all images" : `${share}\u00a0% of the images`;
  return kind === "canary"
    ? `Version ${version} answers ${images}`
    : `Version ${version} is asked about copies of ${images}`;
}

function Sides({ trial }: { trial: Trial }) {
  const time = (ms: number | null) => (ms === null ? "–" : milliseconds(ms));
  const rows: [string, string, string][] = [
    ["Failed", count(trial.errors), count(trial.champion_errors)],
    ["Half came within", time(trial.p50_ms), time(trial.champion_p50_ms)],
    ["95 of 100 came within", time(trial.p95_ms), time(trial.champion_p95_ms)],
  ];
  return (
    <DataTable
      caption="Figures of both"
      rows={rows}
      rowKey={([name]) => name}
      columns={[
        { name: "Of their answers", cell: ([name]) => name, isHeader: true },
        { name: `Version ${trial.version}`, cell: ([, own]) => own, numeric: true },
        { name: `Version ${trial.champion} (live)`, cell: ([, , champions]) => champions, numeric: true },
      ]}
    />
  );
}

/** Newest first; those that have ended. */
export function EndedTrials({ trials }: { trials: readonly Trial[] }) {
  const [isWhole, setWhole] = useState(false);
  if (trials.length === 0) return null;
  return (
    <Card title="What was tried out">
      <ol className="trials" aria-label="What was tried out, newest first">
        {trials.slice(0, isWhole ? undefined : FIRST).map((trial) => (
          <li key={trial.id}>
            <div className="trials-head">
              <h3>
                Version {trial.version} as a {trial.kind}
              </h3>
              {trial.outcome && (
                <StatusMark status={OUTCOMES[trial.outcome][0]} word={OUTCOMES[trial.outcome][1]} />
              )}
            </div>
            <p className="small soft">
              <LocalTime at={trial.started_at} />
              {trial.ended_at !== null &&
                `, for ${duration((Date.parse(trial.ended_at) - Date.parse(trial.started_at)) / 1000)}`}
              {` · ${trial.percent}\u00a0% · ${counted(trial.images, "image")} compared`}
              {trial.agreement !== null && `, ${percent(trial.agreement)} alike`}
            </p>
            {trial.ended_because && <p className="small trials-why">{minus(trial.ended_because)}</p>}
          </li>
        ))}
      </ol>
      {trials.length > FIRST && !isWhole && (
        <Button kind="quiet" onClick={() => setWhole(true)}>
          Show all {trials.length}
        </Button>
      )}
    </Card>
  );
}
