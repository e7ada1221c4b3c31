/** Try this: from one correction to a better model, in steps. Below everything else; dismissed for good with one click. */
import { type UseQueryResult, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useEffect, useMemo } from "react";
import { ApiError, gateway } from "../../shared/api/client.ts";
import { toBase64 } from "../../shared/base64.ts";
import { Button } from "../../shared/components/Button.tsx";
import { Pixels } from "../../shared/components/Pixels.tsx";
import { say } from "../../shared/components/Toasts.tsx";
import { rasterise } from "../../shared/drawing/rasterise.ts";
import { counted, duration, sentence } from "../../shared/format.ts";
import { asRun, isActive, type Run, verdictOf } from "../../shared/runs.ts";
import { Replay } from "../answer/Replay.tsx";
import { useCell } from "../cell.ts";
import { outbox, useOutbox } from "../correct/outbox.ts";
import { pixelsOf } from "../drawing/studio.ts";
import type { Model } from "../model.tsx";
import { imageOf } from "../receipts/ReceiptCard.tsx";
import {
  advance,
  dismiss,
  guide,
  MOST_SAMPLES,
  restart,
  type Subject,
  sampleKey,
  samplesFor,
} from "./guide.ts";
import { StageLights } from "./StageLights.tsx";
import { variant } from "./variants.ts";
import "./Guide.css";

const SHOWN_SAMPLES = 10;
const ASK_EVERY_MS = 3_000; // should the live line be down

export function Guide({ model }: { model: Model }) {
  const { isDismissed, subject } = useCell(guide);
  if (isDismissed || subject === null || subject.model !== model.name) return null;
  return <Steps key={subject.key} model={model} subject={subject} />;
}

function Steps({ model, subject }: { model: Model; subject: Subject }) {
  const run = useRun(subject.runId);
  const sending = useSending(subject);
  useCorrectionId(subject);
  const hasSamples = subject.samples > subject.removed && sending === 0;
  const isOver = run.data !== undefined && !isActive(run.data);
  const queries = useQueryClient();
  useEffect(() => {
    // What is live now is told by the model: asked for even when the live line is down, which else says that it changed.
    if (isOver) void queries.invalidateQueries({ queryKey: ["models"] });
  }, [isOver, queries]);
  return (
    <section className="guide" aria-labelledby="guide-title" id="guide">
      <div className="guide-head">
        <div>
          <h2 id="guide-title">Try this: see it learn</h2>
          <p className="soft">From your one correction to a better model, in a few minutes.</p>
        </div>
        <Button kind="quiet" onClick={dismiss}>
          Do not show again
        </Button>
      </div>
      <ol className="guide-steps">
        <Step state="done" title="Draw">
          <Pixels
            grey={pixelsOf(subject.strokes, model.input.width) ?? new Uint8Array()}
            side={model.input.width}
            size={56}
            alt={`Your ${subject.label}`}
          />
        </Step>
        <Step state="done" title="Correct">
          <p>
            {subject.answered === null ? (
              <>
                You said: <b>{subject.label}</b>.
              </>
            ) : (
              <>
                {subject.before === null ? "The model" : `Version ${subject.before}`} said {subject.answered},
                you said <b>{subject.label}</b>.
              </>
            )}
          </p>
        </Step>
        <Step state={hasSamples || isOver ? "done" : "now"} title="Give it more to learn from">
          <Samples model={model} subject={subject} sending={sending} isOver={isOver} />
        </Step>
        <Step state={isOver ? "done" : hasSamples ? "now" : "later"} title="Retrain">
          <Retrain model={model} run={run} isReady={hasSamples} />
        </Step>
        <Step state={isOver ? "now" : "later"} title="See what it learned">
          {isOver ? (
            <Outcome model={model} subject={subject} run={run.data} />
          ) : (
            <p className="soft">The verdict, and your drawing through the version before and the new one.</p>
          )}
        </Step>
      </ol>
    </section>
  );
}

function Step({
  state,
  title,
  children,
}: {
  state: "done" | "now" | "later";
  title: string;
  children: ReactNode;
}) {
  return (
    <li className="guide-step" data-state={state} aria-current={state === "now" ? "step" : undefined}>
      <h3>
        {title}
        {state === "done" && <span className="aloud">, done</span>}
      </h3>
      <div className="guide-body">{children}</div>
    </li>
  );
}

interface SamplesProps {
  model: Model;
  subject: Subject;
  sending: number;
  isOver: boolean;
}

function Samples({ model, subject, sending, isOver }: SamplesProps) {
  const { label, samples, removed, strokes } = subject;
  const inside = samples - removed;
  const side = model.input.width;
  const wanted = Math.min(samplesFor(label, model.categories), MOST_SAMPLES - samples);
  const shown = useMemo(
    () => Array.from({ length: SHOWN_SAMPLES }, (_, number) => rasterise(variant(strokes, number), side)),
    [strokes, side],
  );
  const withdraw = useWithdraw(model);
  const add = () => {
    advance({ samples: samples + wanted });
    for (let number = samples; number < samples + wanted; number++) {
      void outbox.add({
        key: sampleKey(subject, number),
        model: model.name,
        label,
        image: toBase64(rasterise(variant(strokes, number), side)),
        predictionId: null,
        source: "sample",
      });
    }
  };
  return (
    <>
      <p>
        One drawing is not much to learn from. This page can draw more like yours: tilted, stretched, a little
        wavy. They are marked <i>sample</i>, never count as real drawings when a version is judged, and can be
        removed at any time.
      </p>
      <div className="guide-samples">
        {shown.map((grey, number) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: the number makes the drawing
          <Pixels key={number} grey={grey} side={side} size={44} alt={`Sample ${number + 1}`} />
        ))}
      </div>
      <div className="row">
        {(inside === 0 || isOver) && wanted > 0 && (
          <Button kind={inside === 0 ? "primary" : "plain"} onClick={add}>
            Add {wanted} {inside > 0 && "more "}sample corrections
          </Button>
        )}
        {inside > 0 && (
          <>
            <p aria-live="polite">
              {sending > 0
                ? `${inside - sending} of ${inside} sent`
                : `${counted(inside, "sample correction")} of ${label} ${inside === 1 ? "is" : "are"} in.`}
            </p>
            <Button
              kind="quiet"
              busy={withdraw.isPending}
              because={sending > 0 ? "once all are sent" : undefined}
              onClick={() => withdraw.mutate()}
            >
              Remove all samples
            </Button>
          </>
        )}
      </div>
      {withdraw.error && <p role="alert">{sentence(withdraw.error.message)}</p>}
    </>
  );
}

function useWithdraw(model: Model) {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: () => gateway.post("/models/{name}/samples/withdraw", { path: { name: model.name } }),
    onSuccess: ({ withdrawn, by_the_next_run }) => {
      const said = [
        withdrawn > 0 && `${counted(withdrawn, "sample")} removed`,
        by_the_next_run > 0 && `the next run takes ${counted(by_the_next_run, "sample")} out of the dataset`,
      ].filter((one) => one !== false);
      say(said.length > 0 ? sentence(said.join("; ")) : "No samples were left to remove");
      advance({ removed: guide.value.subject?.samples ?? 0 });
      void queries.invalidateQueries();
    },
  });
}

interface RetrainProps {
  model: Model;
  run: UseQueryResult<Run>;
  isReady: boolean;
}

function Retrain({ model, run, isReady }: RetrainProps) {
  const start = useMutation({
    mutationFn: async () => {
      try {
        return await gateway.post("/pipeline_runs", { body: { model: model.name, force: false } });
      } catch (error) {
        if (!(error instanceof ApiError) || error.code !== "run_active") throw error;
        say("A run was under way already: this is it. What came in after it began waits for the next.");
        return { run_id: (error.body as { run_id: number }).run_id };
      }
    },
    onSuccess: ({ run_id }) => advance({ runId: run_id }),
  });
  const estimate = model.run_estimate;
  const missing = model.corrections_needed;
  const retrain = (
    <Button
      kind={run.data === undefined ? "primary" : "plain"}
      busy={start.isPending}
      because={
        !isReady
          ? "once the samples are in"
          : missing > 0
            ? `a run needs ${counted(missing, "more correction")}`
            : undefined
      }
      onClick={() => start.mutate()}
    >
      {run.data === undefined ? "Retrain now" : "Retrain once more"}
    </Button>
  );
  return (
    <>
      {model.promotion_paused && <Paused model={model} />}
      {(run.data === undefined || !isActive(run.data)) && (
        <>
          <div className="row">{retrain}</div>
          <p className="soft small">
            {estimate === null
              ? "Takes a minute or two."
              : `Takes about ${duration(estimate.seconds)}, as the last ${estimate.runs === 1 ? "run" : counted(estimate.runs, "run")} did.`}
          </p>
        </>
      )}
      {run.data && <StageLights run={run.data} estimate={estimate} />}
      {run.isError && <p role="alert">{sentence(run.error.message)}</p>}
      {start.error && <p role="alert">{sentence(start.error.message)}</p>}
    </>
  );
}

function Paused({ model }: { model: Model }) {
  const queries = useQueryClient();
  const resume = useMutation({
    mutationFn: () => gateway.post("/models/{name}/promotion/resume", { path: { name: model.name } }),
    onSuccess: () => {
      say("Runs may put new versions live again");
      void queries.invalidateQueries({ queryKey: ["models"] });
    },
  });
  return (
    <div className="guide-paused">
      <p>After an undo no run puts a new version live, until somebody allows it again.</p>
      <Button busy={resume.isPending} onClick={() => resume.mutate()}>
        Allow it again
      </Button>
      {resume.error && <p role="alert">{sentence(resume.error.message)}</p>}
    </div>
  );
}

function Outcome({ model, subject, run }: { model: Model; subject: Subject; run: Run }) {
  const isPromoted = run.status === "succeeded" && run.version !== null;
  const isLive = isPromoted && model.champion?.version === run.version;
  return (
    <>
      <p className="guide-verdict" data-good={isLive || undefined}>
        {isPromoted && !isLive && <b>Not live any more. </b>}
        {verdictOf(run) ?? sentence(run.message ?? `The run ended: ${run.status}`)}
      </p>
      {subject.correctionId !== null &&
        subject.before !== null &&
        run.version !== null &&
        run.version !== subject.before && (
          <Replay
            model={model}
            image={imageOf(subject.correctionId)}
            label={subject.label}
            before={subject.before}
            after={run.version}
            afterIs={isLive ? "live now" : isPromoted ? "undone" : "not promoted"}
          />
        )}
      <div className="row">
        {isLive && <MakeLive name="Undo promotion" act={() => undo(model, run.version as number)} />}
        <Button kind={isLive ? "quiet" : "plain"} onClick={restart}>
          Teach it another drawing
        </Button>
      </div>
      {isPromoted && !isLive && model.champion && (
        <>
          <p>
            Version {model.champion.version} is live. What version {run.version} learned is not lost: the
            dataset keeps it.
          </p>
          <div className="row">
            <MakeLive
              name={`Put version ${run.version} live again`}
              act={() => putBack(model, run.version as number)}
            />
          </div>
        </>
      )}
    </>
  );
}

/** What is live changes, and with it all that the page shows. */
function MakeLive({ name, act }: { name: string; act: () => Promise<{ version: number }> }) {
  const queries = useQueryClient();
  const move = useMutation({
    mutationFn: act,
    onSuccess: ({ version }) => {
      say(`Version ${version} is live again`);
      void queries.invalidateQueries();
    },
  });
  return (
    <>
      <Button busy={move.isPending} onClick={() => move.mutate()}>
        {name}
      </Button>
      {move.error && <p role="alert">{sentence(move.error.message)}</p>}
    </>
  );
}

const undo = (model: Model, version: number) =>
  gateway.post("/models/{name}/rollback", {
    path: { name: model.name },
    body: { version, reason: `tried out: version ${version} undone from the drawing page` },
  });

const putBack = (model: Model, version: number) =>
  gateway.post("/models/{name}/promote", {
    path: { name: model.name },
    body: { version, reason: `tried out: version ${version} put live again from the drawing page` },
  });

function useRun(id: number | null): UseQueryResult<Run> {
  return useQuery({
    queryKey: ["run", id],
    enabled: id !== null,
    queryFn: async ({ signal }) =>
      asRun(await gateway.get("/pipeline_runs/{run_id}", { path: { run_id: id as number }, signal })),
    refetchInterval: ({ state }) => (state.data === undefined || isActive(state.data) ? ASK_EVERY_MS : false),
  });
}

/** Samples still on their way. */
function useSending(subject: Subject): number {
  const { waiting } = useOutbox();
  return waiting.filter(({ key }) => key.startsWith(`${subject.key}-sample-`)).length;
}

/** Keeps the correction's id, which comes with the gateway's answer. */
function useCorrectionId(subject: Subject): void {
  const { sent } = useOutbox();
  const found = sent.get(subject.key)?.correction_id;
  useEffect(() => {
    if (found !== undefined && subject.correctionId === null) advance({ correctionId: found });
  }, [found, subject.correctionId]);
}
