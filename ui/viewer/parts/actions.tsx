/**
 * The buttons that change something, each with the question it asks before and the reason when it cannot work now.
 *
 *   <Retrain model={model} />   <Cancel run={run} />   <Resume run={run} newest={12} />   <RollBack model="doodles" ... />
 */
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useId, useState } from "react";
import { useLocation } from "wouter";
import { withKept } from "../../shared/address.ts";
import { gateway } from "../../shared/api/client.ts";
import { Button, type ButtonProps } from "../../shared/components/Button.tsx";
import { Confirm } from "../../shared/components/Confirm.tsx";
import { say } from "../../shared/components/Toasts.tsx";
import { counted, minus } from "../../shared/format.ts";
import { isActive, type Run } from "../../shared/runs.ts";
import { type ModelOverview, promote, rollBack, type Trial, type Version } from "../data.ts";
import { roughly } from "../runs.ts";
import { endTrial, rolledBack, underWay, useTrials } from "../trials.ts";
import "./actions.css";

interface AskedActionProps {
  name: string;
  kind?: ButtonProps["kind"];
  /** Read aloud instead of `name` where several buttons have the same. */
  label?: string;
  because?: string | undefined;
  title: string;
  confirm: string;
  keep?: string;
  danger?: boolean;
  /** May throw: the dialog stays and says why. Answers what to say when it is done. */
  act: () => Promise<string>;
  children: ReactNode;
}

/** A button, the question, and everything on the page asked for anew when it is done. */
export function AskedAction({
  name,
  kind,
  label,
  because,
  title,
  confirm,
  keep,
  danger,
  act,
  children,
}: AskedActionProps) {
  const [isAsking, setAsking] = useState(false);
  const queries = useQueryClient();
  const doing = useMutation({
    mutationFn: act,
    onSuccess: (said) => {
      setAsking(false);
      say(said);
    },
    onSettled: () => queries.invalidateQueries(),
  });
  return (
    <>
      <Button kind={kind} because={because} aria-label={label} onClick={() => setAsking(true)}>
        {name}
      </Button>
      <Confirm
        open={isAsking}
        title={title}
        confirm={confirm}
        {...(keep !== undefined && { keep })}
        kind={danger ? "danger" : "primary"}
        busy={doing.isPending}
        error={doing.error}
        onConfirm={() => doing.mutate()}
        onClose={() => {
          setAsking(false);
          doing.reset();
        }}
      >
        {children}
      </Confirm>
    </>
  );
}

export function Retrain({ model, isAlive }: { model: ModelOverview; isAlive: boolean }) {
  const [force, setForce] = useState(false);
  const [, go] = useLocation();
  const { waiting, run_estimate: estimate } = model;
  const missing = waiting.missing_for_a_run;
  return (
    <AskedAction
      name="Retrain now"
      kind={missing > 0 ? "plain" : "primary"}
      label={`Retrain now: ${model.name}`}
      because={whyNoRun(model, isAlive)}
      title={`Retrain ${model.name}?`}
      confirm="Start the run"
      act={async () => {
        const { run_id } = await gateway.post("/pipeline_runs", { body: { model: model.name, force } });
        go(withKept(`/runs/${run_id}`));
        return `Run ${run_id} has begun`;
      }}
    >
      <p>
        The run takes in {counted(waiting.corrections, "correction")}, trains a new version and compares it
        with {model.champion ? `version ${model.champion.version}, which answers meanwhile` : "chance"}. It
        goes live only if the gate says that it is better.
      </p>
      {model.promotion_paused_at && (
        <p>Promotion is paused: whatever the gate says, this run puts nothing live.</p>
      )}
      <p>
        {estimate
          ? `It takes about ${roughly(estimate.seconds)}, as the last ${estimate.runs === 1 ? "run" : `${estimate.runs} runs`} did.`
          : "How long it takes is not known yet: no run has gone through."}
      </p>
      {missing > 0 && (
        <label className="actions-check">
          <input type="checkbox" checked={force} onChange={(event) => setForce(event.target.checked)} />
          <span>
            Train all the same. A run needs {missing} more {missing === 1 ? "correction" : "corrections"}, and
            without this it stops at once unless an import waits.
          </span>
        </label>
      )}
    </AskedAction>
  );
}

export function whyNoRun(model: ModelOverview, isAlive: boolean): string | undefined {
  if (model.active_run !== null) return `Run ${model.active_run} is under way`;
  if (!isAlive) return "What works on runs is away; it starts again by itself";
  return undefined;
}

export function Cancel({ run }: { run: Run }) {
  const stage = run.stages.find(({ status }) => status === "running");
  return (
    <AskedAction
      name="Cancel"
      because={isActive(run) ? undefined : "Only a run under way can be cancelled"}
      title={`Cancel run ${run.run_id}?`}
      confirm="Cancel the run"
      keep="Let it go on"
      danger
      act={async () => {
        await gateway.post("/pipeline_runs/{run_id}/cancel", { path: { run_id: run.run_id } });
        return `Run ${run.run_id} is being cancelled`;
      }}
    >
      <p>
        {stage ? `Its stage “${stage.name}” is ended within seconds. ` : "It ends before it has begun. "}
        What is finished is kept, no correction is lost, and the live version goes on answering. While no
        later run comes, it can be resumed.
      </p>
    </AskedAction>
  );
}

const RESUMABLE: readonly string[] = ["failed", "interrupted", "cancelled"];

export function whyNoResume(run: Run, newest: number | undefined): string | undefined {
  if (isActive(run)) return "It is under way";
  if (!RESUMABLE.includes(run.status)) return "It came to its end: nothing is left to do";
  if (newest !== undefined && newest > run.run_id) return `Run ${newest} came later: start a new one instead`;
  return undefined;
}

interface ResumeProps {
  run: Run;
  /** The model's last run, if known. */
  newest: number | undefined;
  kind?: ButtonProps["kind"];
}

export function Resume({ run, newest, kind = "primary" }: ResumeProps) {
  const done = run.stages.filter(({ status }) => status === "succeeded");
  const at = run.stages.find(({ status }) => status !== "succeeded");
  return (
    <AskedAction
      name="Resume"
      kind={kind}
      because={whyNoResume(run, newest)}
      title={`Resume run ${run.run_id}?`}
      confirm="Resume the run"
      act={async () => {
        await gateway.post("/pipeline_runs/{run_id}/resume", { path: { run_id: run.run_id } });
        return `Run ${run.run_id} goes on`;
      }}
    >
      <p>
        It goes on {at ? `with the stage “${at.name}”` : "where it stopped"}.{" "}
        {done.length > 0 && `${counted(done.length, "stage")} already finished and will not be done again.`}
      </p>
    </AskedAction>
  );
}

/** Kept in the ledger for ever; empty: the default is sent. */
interface ReasonProps {
  value: string;
  onChange: (value: string) => void;
  example: string;
  label?: string;
}

export function Reason({ value, onChange, example, label = "Why? The ledger keeps it." }: ReasonProps) {
  const id = useId();
  return (
    <div className="actions-reason">
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        type="text"
        value={value}
        maxLength={300}
        placeholder={example}
        onChange={(event) => onChange(event.target.value)}
      />
    </div>
  );
}

interface RollBackProps {
  model: string;
  live: number | null;
  /** What would answer then. */
  previous: number | null;
  isRegistryAway?: boolean;
}

export function RollBack({ model, live, previous, isRegistryAway = false }: RollBackProps) {
  const [reason, setReason] = useState("");
  const trials = useTrials(model);
  const trial = underWay(trials.data);
  const target = `version ${previous}`;
  let because: string | undefined;
  if (trial !== null) because = undefined;
  else if (live === null) because = "No version is live yet";
  else if (previous === null) because = "There is no earlier version to go back to";
  else if (isRegistryAway) because = "MLflow does not answer just now";
  return (
    <AskedAction
      name="Roll back"
      kind="danger"
      label={`Roll back: ${model}`}
      because={because}
      title={trial ? `End the ${trial.kind} of version ${trial.version} first?` : `Roll back to ${target}?`}
      confirm={trial ? `End the ${trial.kind}` : "Roll back"}
      danger
      act={async () => {
        const why = reason.trim() || "asked for on the page";
        const said = trial
          ? await endTrial(trial, why)
          : rolledBack(await rollBack(model, why, live ?? undefined));
        setReason("");
        return said;
      }}
    >
      {trial ? (
        <p>
          A rollback ends the {trial.kind} of version {trial.version} first: version {trial.champion} stays
          live and answers all images.
          {previous !== null && ` To go back to ${target} after that, roll back once more.`}
        </p>
      ) : (
        <p>
          Within seconds {target} of {model} answers instead of version {live}; no request is lost meanwhile.
          Runs then put nothing live by themselves until somebody resumes promotion.
          {!trials.data && " If a version is being tried out, that ends instead, and the live version stays."}
        </p>
      )}
      <Reason value={reason} onChange={setReason} example="it mistakes cats for dogs" />
    </AskedAction>
  );
}

export function ResumePromotion({ model }: { model: ModelOverview }) {
  return (
    <AskedAction
      name="Resume promotion"
      label={`Resume promotion of ${model.name}`}
      because={model.promotion_paused_at ? undefined : "It is not paused"}
      title={`Resume promotion of ${model.name}?`}
      confirm="Resume promotion"
      act={async () => {
        await gateway.post("/models/{name}/promotion/resume", { path: { name: model.name } });
        return "Runs may put versions live again";
      }}
    >
      <p>
        From the next run on, a version that the gate finds better goes live by itself again. What is live now
        stays until then.
      </p>
    </AskedAction>
  );
}

type Promotable = Pick<Version, "version"> &
  Partial<Pick<Version, "aliases" | "weights_removed_at" | "verdict_sentence">>;

export function whyNoPromotion(version: Promotable, isRegistryAway = false): string | undefined {
  if (version.aliases?.includes("champion")) return "It is live";
  if (version.weights_removed_at) return "Its weights were removed to save room";
  if (isRegistryAway) return "MLflow does not answer just now";
  return undefined;
}

interface PromoteProps {
  model: string;
  version: Promotable;
  live: number | null;
  isRegistryAway: boolean;
  /** What is being tried out, this version or another. */
  trial: Trial | null;
  /** Read aloud where there are two for one version. */
  label?: string;
}

export function Promote({ model, version, live, isRegistryAway, trial, label }: PromoteProps) {
  const [reason, setReason] = useState("");
  return (
    <AskedAction
      name="Promote"
      label={label ?? `Promote version ${version.version}`}
      because={whyNoPromotion(version, isRegistryAway)}
      title={`Put version ${version.version} live?`}
      confirm={`Promote version ${version.version}`}
      act={async () => {
        await promote(model, version.version, reason.trim() || "asked for on the page");
        setReason("");
        return `Version ${version.version} is live`;
      }}
    >
      <p>
        Within seconds version {version.version} of {model} answers
        {live === null ? "" : ` instead of version ${live}`}; no request is lost meanwhile. It is your
        decision, not the gate’s, and the ledger says so.
        {trial && ` The ${trial.kind} of version ${trial.version} ends with that.`}
      </p>
      {version.verdict_sentence && (
        <p className="actions-said">The gate said of it: {minus(version.verdict_sentence)}</p>
      )}
      <Reason value={reason} onChange={setReason} example="better on our own drawings" />
    </AskedAction>
  );
}
