/** The nine stages of a run, lighting up one after the other, and how long it still takes. */
import { useEffect, useState } from "react";
import { duration } from "../../shared/format.ts";
import { isActive, type Run, STAGES } from "../../shared/runs.ts";
import type { Model } from "../model.tsx";
import "./StageLights.css";

interface Props {
  run: Run;
  estimate: Model["run_estimate"];
}

export function StageLights({ run, estimate }: Props) {
  const elapsed = useElapsed(run);
  const done = STAGES.filter((name) => stateOf(run, name) === "succeeded").length;
  return (
    <div className="lights">
      <ol className="lights-stages" aria-label={`${done} of ${STAGES.length} stages done`}>
        {STAGES.map((name) => (
          <li key={name} data-state={stateOf(run, name)}>
            <span className="lights-lamp" aria-hidden="true" />
            {name}
            <span className="aloud">: {stateOf(run, name)}</span>
          </li>
        ))}
      </ol>
      <p className="small soft number">
        {isActive(run)
          ? run.status === "queued"
            ? "Waits to be started."
            : `${whole(elapsed)} so far${estimate ? `, ${left(estimate.seconds - elapsed)}` : ""}`
          : `took ${duration(elapsed)}`}
      </p>
    </div>
  );
}

function stateOf(run: Run, name: string): string {
  return run.stages.find((stage) => stage.name === name)?.status ?? "waiting";
}

/** Of a clock that ticks: no parts of a second. */
function whole(seconds: number): string {
  return seconds < 60 ? `${Math.floor(seconds)} s` : duration(seconds);
}

function left(seconds: number): string {
  return seconds < 1 ? "longer than usual" : `about ${duration(Math.max(1, Math.round(seconds)))} left`;
}

function useElapsed(run: Run): number {
  const [now, setNow] = useState(Date.now);
  const running = isActive(run);
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => setNow(Date.now()), 500);
    return () => clearInterval(timer);
  }, [running]);
  const end = run.finished_at === null ? now : Date.parse(run.finished_at);
  return Math.max(0, (end - Date.parse(run.started_at ?? run.requested_at)) / 1000);
}
