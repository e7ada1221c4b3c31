/** The nine stages of a run, each with its state and time; choosing one shows its log. */
import { duration } from "../../shared/format.ts";
import { isActive, type Run, STAGES, type StageName, type StageOfRun } from "../../shared/runs.ts";
import type { Epoch, RunEstimate } from "../data.ts";
import { allStages, epochsLeftSeconds, roughly, SHORT, stageSeconds, timeLeft } from "../runs.ts";
import { StatusIcon } from "./StatusIcon.tsx";
import "./StageRail.css";
import { useNow } from "./useNow.ts";

interface Props {
  run: Run;
  estimate: RunEstimate | null;
  epochs: readonly Epoch[];
  chosen: string | null;
  choose: (stage: StageName) => void;
}

export function StageRail({ run, estimate, epochs, chosen, choose }: Props) {
  const now = useNow(isActive(run));
  const train = run.stages.find(({ name }) => name === "train");
  const left = timeLeft(run, estimate, now, epochsLeftSeconds(epochs, train, now));
  const lastBegun = run.stages.at(-1)?.name;
  const spent = run.stages.reduce((sum, stage) => sum + (stageSeconds(stage, now) ?? 0), 0);
  const isWhole = run.stages.length > 0;
  return (
    <div className="rail">
      <ol className="rail-stages" aria-label="Stages">
        {allStages(run).map(({ name, stage }) => (
          <li key={name}>
            <button
              type="button"
              className="rail-stage"
              data-status={stage?.status ?? "waiting"}
              aria-pressed={chosen === name}
              disabled={stage === null}
              onClick={() => choose(name)}
            >
              <span className="rail-name">{name}</span>
              <span className="rail-state">
                {stage && <StatusIcon status={stage.status} />}
                {stage
                  ? (SHORT[stage.status] ?? stage.status)
                  : isPassed(name, lastBegun)
                    ? "left out"
                    : "not begun"}
              </span>
              <span className="rail-time number">
                {timeOf(stage, isActive(run) ? estimate?.stages[name] : undefined, now)}
              </span>
              <Progress
                stage={stage}
                usual={estimate?.stages[name]}
                epochs={name === "train" ? epochs : []}
                now={now}
              />
            </button>
          </li>
        ))}
      </ol>
      <p className="small soft rail-sum">
        {isActive(run) ? (
          <>
            {run.status !== "queued"
              ? `${duration(spent)} so far, ${left}`
              : `It waits to begin${estimate ? `; then it takes about ${roughly(estimate.seconds)}` : ""}`}
            {estimate &&
              (run.status === "queued" || left.startsWith("about")) &&
              `, by the last ${estimate.runs === 1 ? "run" : `${estimate.runs} runs`}`}
          </>
        ) : (
          isWhole && `${duration(spent)} at work in all`
        )}
      </p>
    </div>
  );
}

/** As promote is of a run that the gate refused. */
function isPassed(name: StageName, lastBegun: StageName | undefined): boolean {
  return lastBegun !== undefined && STAGES.indexOf(name) < STAGES.indexOf(lastBegun);
}

function timeOf(stage: StageOfRun | null, usual: number | undefined, now: number): string {
  if (stage === null) return usual === undefined ? "" : `about ${roughly(usual)}`;
  const seconds = stageSeconds(stage, now);
  if (seconds === null) return "";
  return (
    (seconds < 60 && stage.status === "running" ? `${Math.floor(seconds)} s` : duration(seconds)) +
    (stage.attempt > 1 ? `, attempt ${stage.attempt}` : "")
  );
}

interface ProgressProps {
  stage: StageOfRun | null;
  usual: number | undefined;
  epochs: readonly Epoch[];
  now: number;
}

/** Of a running stage: by its epochs where it has them, else by what it usually takes, never quite full. */
function Progress({ stage, usual, epochs, now }: ProgressProps) {
  if (stage?.status !== "running")
    return <span className="rail-track" data-full={stage !== null || undefined} />;
  const last = epochs.at(-1);
  const share = last?.epochs
    ? last.epoch / last.epochs
    : Math.min(0.95, usual ? (stageSeconds(stage, now) ?? 0) / usual : 0.1);
  return (
    <span className="rail-track">
      <span style={{ transform: `scaleX(${share})` }} />
    </span>
  );
}
