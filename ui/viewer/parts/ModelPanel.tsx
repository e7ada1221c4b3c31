/** What a model waits for: corrections, threshold, schedule; what is live, what is under way, and what can be done now. */
import { Link } from "wouter";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { StatusMark } from "../../shared/components/StatusMark.tsx";
import { count, counted, percent } from "../../shared/format.ts";
import type { Run } from "../../shared/runs.ts";
import type { ModelOverview } from "../data.ts";
import { roughly, timeLeft } from "../runs.ts";
import { Cancel, Resume, ResumePromotion, Retrain, RollBack, whyNoResume } from "./actions.tsx";
import "./ModelPanel.css";
import { useNow } from "./useNow.ts";

interface Props {
  model: ModelOverview;
  isAlive: boolean;
}

export function ModelPanel({ model, isAlive }: Props) {
  const { name, champion } = model;
  const last = model.last_run as Run | null;
  const canResume = last && last.run_id !== model.active_run && whyNoResume(last, last.run_id) === undefined;
  return (
    <section className="model-panel" aria-label={`Model ${name}`}>
      <div className="model-panel-name">
        <h2>{name}</h2>
        {champion ? (
          <p className="small soft">
            <Link href={`/versions?model=${encodeURIComponent(name)}`}>Version {champion.version}</Link> is
            live
            {champion.since && (
              <>
                {" "}
                since <LocalTime at={champion.since} />
              </>
            )}
            {champion.holdout_accuracy !== null && (
              <>, {percent(champion.holdout_accuracy)} right on the holdout</>
            )}
          </p>
        ) : (
          <p className="small soft">No version is live yet</p>
        )}
        {model.promotion_paused_at && (
          <p className="model-panel-paused small">
            Promotion is paused since <LocalTime at={model.promotion_paused_at} />, after a rollback: runs put
            nothing live.
          </p>
        )}
      </div>
      <Waiting model={model} />
      <div className="model-panel-next">
        <NextRun model={model} run={last?.run_id === model.active_run ? last : null} isAlive={isAlive} />
        {last && last.run_id === model.active_run && (
          <div>
            <Cancel run={last} />
          </div>
        )}
        {canResume && (
          <div className="row">
            <Resume run={last} newest={last.run_id} kind="plain" />
            <span className="small soft">
              <Link href={`/runs/${last.run_id}`}>run {last.run_id}</Link>, {last.status}
            </span>
          </div>
        )}
      </div>
      <div className="model-panel-buttons">
        <Retrain model={model} isAlive={isAlive} />
        <RollBack model={name} live={champion?.version ?? null} previous={model.previous} />
        {model.promotion_paused_at && <ResumePromotion model={model} />}
      </div>
    </section>
  );
}

/** A row of places, one a correction that a run needs; a bar when these are many. */
function Waiting({ model }: { model: ModelOverview }) {
  const { corrections, missing_for_a_run: missing, missing_for_the_trigger: toTrigger } = model.waiting;
  const withdrawals = Number(model.waiting.withdrawals ?? 0);
  const needed = corrections + missing;
  const href = `/corrections?model=${encodeURIComponent(model.name)}`;
  return (
    <div className="model-panel-waiting">
      <p>
        <Link href={`${href}&show=waiting`}>
          <span className="model-panel-count number">{count(corrections)}</span>{" "}
          {corrections === 1 ? "correction waits" : "corrections wait"}
        </Link>
      </p>
      <span className="model-panel-track" aria-hidden="true">
        <span
          style={{ transform: `scaleX(${needed === 0 ? 1 : corrections / needed})` }}
          data-full={missing === 0 || undefined}
        />
      </span>
      <p className="small soft">
        {missing === 0 ? "enough for a run" : `${count(missing)} more until a run can start`}
        {toTrigger !== null &&
          (toTrigger === 0
            ? "; one starts by itself"
            : `; ${count(toTrigger)} more and one starts by itself`)}
        {withdrawals > 0 && `; ${counted(withdrawals, "withdrawn image")} to take out`}
      </p>
      {model.quarantined > 0 && (
        <p className="small">
          <Link href={`${href}&show=aside`}>
            {counted(model.quarantined, "is", "are")} set aside, for you to look at
          </Link>
        </p>
      )}
    </div>
  );
}

function NextRun({ model, run, isAlive }: { model: ModelOverview; run: Run | null; isAlive: boolean }) {
  const now = useNow(model.active_run !== null);
  if (model.active_run !== null) {
    const stage = run?.stages.find(({ status }) => status === "running");
    return (
      <>
        <p>
          <StatusMark status={run?.status ?? "running"} />{" "}
          <Link href={`/runs/${model.active_run}`}>Run {model.active_run}</Link>
        </p>
        <p className="small soft">
          {stage ? `${stage.name}; ` : ""}
          {run && timeLeft(run, model.run_estimate, now)}
        </p>
      </>
    );
  }
  const at = model.schedule?.next_at;
  return (
    <>
      <p>
        {at ? (
          <>
            Next run by schedule: <LocalTime at={at} />
          </>
        ) : (
          "No run by schedule"
        )}
      </p>
      <p className="small soft">
        {!isAlive
          ? "What works on runs is away just now"
          : model.run_estimate
            ? `A run takes about ${roughly(model.run_estimate.seconds)}`
            : "No run has gone through yet"}
      </p>
    </>
  );
}

/** Where there are many models: one line each, the whole panel when one is chosen. */
export function ModelLines({ models }: { models: readonly ModelOverview[] }) {
  return (
    <ul className="model-lines">
      {models.map((model) => (
        <li key={model.name}>
          <Link href={`/?model=${encodeURIComponent(model.name)}`}>{model.name}</Link>
          <span className="small soft">
            {model.champion ? `version ${model.champion.version} is live` : "no version yet"}
          </span>
          <span className="small soft">
            {counted(model.waiting.corrections, "correction waits", "corrections wait")}
            {model.waiting.missing_for_a_run > 0 && `, ${count(model.waiting.missing_for_a_run)} missing`}
          </span>
          <span>
            {model.active_run !== null && <StatusMark status="running" word={`Run ${model.active_run}`} />}
            {model.promotion_paused_at && <StatusMark status="halted" word="Promotion paused" />}
          </span>
        </li>
      ))}
    </ul>
  );
}
