/** The nine stages of a run, small: in a row of the table with duration and word, or as a strip on a narrow screen. */

import { duration } from "../../shared/format.ts";
import { isActive, type Run } from "../../shared/runs.ts";
import { allStages, SHORT, stageSeconds } from "../runs.ts";
import { StatusIcon } from "./StatusIcon.tsx";
import { useNow } from "./useNow.ts";
import "./StageMarks.css";

export function StageCells({ run }: { run: Run }) {
  const now = useNow(isActive(run));
  return allStages(run).map(({ name, stage }) => {
    const seconds = stage && stageSeconds(stage, now);
    return (
      <td key={name} className="stage-cell" data-status={stage?.status ?? "waiting"}>
        {stage === null ? (
          <>
            <span aria-hidden="true">–</span>
            <span className="aloud">not begun</span>
          </>
        ) : (
          <>
            <span className="stage-cell-figure">
              <StatusIcon status={stage.status} />
              {seconds !== null && <span className="number">{short(seconds)}</span>}
            </span>
            <span className="stage-cell-word">{SHORT[stage.status] ?? stage.status}</span>
          </>
        )}
      </td>
    );
  });
}

/** Room for five signs. */
function short(seconds: number): string {
  if (seconds < 59.5) return duration(seconds);
  return seconds < 3600 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function StageStrip({ run }: { run: Run }) {
  const now = useNow(isActive(run));
  const stages = allStages(run);
  const last = run.stages.at(-1);
  const seconds = last ? stageSeconds(last, now) : null;
  return (
    <div className="stage-strip">
      <ol aria-label="Stages">
        {stages.map(({ name, stage }) => (
          <li key={name} data-status={stage?.status ?? "waiting"}>
            {stage && <StatusIcon status={stage.status} />}
            <span className="aloud">
              {name}: {stage ? (SHORT[stage.status] ?? stage.status) : "not begun"}
            </span>
          </li>
        ))}
      </ol>
      <p className="small soft" aria-hidden="true">
        {last && run.stages.length < stages.length
          ? `${last.name}: ${SHORT[last.status] ?? last.status}${seconds === null ? "" : `, ${duration(seconds)}`}`
          : wholeTime(run)}
      </p>
    </div>
  );
}

function wholeTime(run: Run): string {
  if (run.stages.length === 0) return "no stage has begun";
  const seconds = run.stages.reduce((sum, stage) => sum + (stage.duration_seconds ?? 0), 0);
  return `${run.stages.length} of 9 stages, ${duration(seconds)}`;
}
