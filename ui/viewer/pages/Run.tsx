/** One run: stages, log, training curve, verdict in pictures, what its dataset added, its parameters. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { lazy, Suspense, useMemo, useState } from "react";
import { Link } from "wouter";
import { useParameter } from "../../shared/address.ts";
import { ApiError } from "../../shared/api/client.ts";
import { Card } from "../../shared/components/Card.tsx";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { StatusMark } from "../../shared/components/StatusMark.tsx";
import { Empty, Failed, Loading, Stale } from "../../shared/components/states.tsx";
import { sentence } from "../../shared/format.ts";
import { useLive } from "../../shared/live.ts";
import { isActive, type Run as RunShape } from "../../shared/runs.ts";
import { askReport, askRun, askRuns, type Epoch } from "../data.ts";
import { Added } from "../parts/Added.tsx";
import { Cancel, Resume, whyNoResume } from "../parts/actions.tsx";
import { LoadingPage } from "../parts/Head.tsx";
import { Log } from "../parts/Log.tsx";
import { Params } from "../parts/Params.tsx";
import { StageRail } from "../parts/StageRail.tsx";
import { Categories, Confusion, Corrections, Holdout, Missing, VerdictSentence } from "../parts/Verdict.tsx";
import { TRIGGERS, useOverview } from "../runs.ts";
import "./Run.css";

const Curve = lazy(async () => ({ default: (await import("../parts/Curve.tsx")).Curve }));

export function Run({ runId }: { runId: number }) {
  const queries = useQueryClient();
  const run = useQuery({
    queryKey: ["runs", "one", runId],
    queryFn: ({ signal }) => askRun(runId, signal),
  });
  const [epochs, setEpochs] = useState<readonly Epoch[]>([]);
  useLive((event) => {
    if (event.run_id !== runId) return;
    if (event.status === "epoch") {
      const epoch = { at: event.at, ...(event.figures as unknown as Epoch) };
      setEpochs((before) => [...before.filter((one) => one.epoch < epoch.epoch), epoch]);
      return;
    }
    void queries.invalidateQueries({ queryKey: ["runs", "one", runId] });
    void queries.invalidateQueries({ queryKey: ["report", runId] });
  });
  if (run.data) return <Loaded run={run.data} live={epochs} />;
  return (
    <div className="stack run">
      <div className="run-head">
        <div>
          <ToAllRuns />
          <h1>Run {runId}</h1>
        </div>
        <div className="run-tools">
          <Stale />
        </div>
      </div>
      {run.isPending && <LoadingPage what="the run" />}
      {run.error instanceof ApiError && run.error.status === 404 ? (
        <Empty title={`There is no run ${runId}`}>
          <Link href="/">To all runs</Link>
        </Empty>
      ) : (
        run.error && (
          <Failed what="The run could not be loaded" error={run.error} retry={() => void run.refetch()} />
        )
      )}
    </div>
  );
}

function Loaded({ run, live }: { run: RunShape; live: readonly Epoch[] }) {
  const [wanted, setStage] = useParameter("stage");
  const overview = useOverview();
  const estimate = overview.data?.models.find(({ name }) => name === run.model)?.run_estimate ?? null;
  const report = useQuery({
    queryKey: ["report", run.run_id],
    queryFn: ({ signal }) => askReport(run.run_id, signal),
  });
  const newest = useQuery({
    queryKey: ["runs", "newest", run.model],
    queryFn: async ({ signal }) =>
      (await askRuns({ model: run.model, status: null, trigger: null }, null, signal, 1)).runs[0]?.run_id,
    enabled: !isActive(run),
  }).data;
  const curve = report.data?.curve;
  const epochs = useMemo(() => joined(curve ?? [], live), [curve, live]);
  // Followed without a choice: the one at work, the one that failed, or training.
  const begun = run.stages.find(({ name }) => name === wanted);
  const atWork = run.stages.find(({ status }) => status !== "succeeded");
  const stage = begun ?? atWork ?? run.stages.find(({ name }) => name === "train") ?? run.stages.at(-1);
  const { data } = report;
  return (
    <div className="stack run">
      <div className="run-head">
        <div>
          <ToAllRuns />
          <h1>
            Run {run.run_id} <StatusMark status={run.status} />
          </h1>
          <p className="soft">
            <Link href={`/?model=${encodeURIComponent(run.model)}`}>{run.model}</Link>,{" "}
            {TRIGGERS[run.trigger].toLowerCase()}, <LocalTime at={run.requested_at} ago />
            {run.force && ", also with too little new"}
          </p>
        </div>
        <div className="run-tools">
          <Stale />
          <div className="row">
            {isActive(run) ? (
              <Cancel run={run} />
            ) : (
              whyNoResume(run, undefined) === undefined && <Resume run={run} newest={newest} />
            )}
          </div>
        </div>
      </div>
      <VerdictSentence run={run} rules={data?.gate?.rules ?? []} />
      {run.verdict === null && run.message && (
        <p className="run-message" data-status={run.status}>
          {sentence(run.message)}
        </p>
      )}
      <dl className="run-facts">
        <Fact name="Asked for by">{run.requested_by}</Fact>
        {run.dataset_version !== null && <Fact name="Trained on">dataset {run.dataset_version}</Fact>}
        {run.version !== null && (
          <Fact name="Made">
            <Link href={`/versions?model=${encodeURIComponent(run.model)}&b=${run.version}`}>
              version {run.version}
            </Link>
            {run.weights_removed_at && " (weights removed)"}
          </Fact>
        )}
        {run.mlflow_url && (
          <Fact name="In MLflow">
            <a href={run.mlflow_url}>curves, files, environment</a>
          </Fact>
        )}
      </dl>
      <StageRail
        run={run}
        estimate={estimate}
        epochs={epochs}
        chosen={stage?.name ?? null}
        choose={(name) => setStage(name)}
      />
      <div className="run-work">
        {stage ? (
          <Log
            key={`${stage.name} ${stage.attempt}`}
            runId={run.run_id}
            stage={stage.name}
            isRunning={stage.status === "running"}
          />
        ) : (
          <Empty title="No stage has begun yet">
            <p>The log of the first one comes here as soon as it begins.</p>
          </Empty>
        )}
        <Card title="Training">
          {epochs.length > 0 ? (
            <Suspense fallback={<Loading what="the curve" lines={8} />}>
              <Curve epochs={epochs} train={run.stages.find(({ name }) => name === "train")} />
            </Suspense>
          ) : (
            <p className="run-no-curve soft">
              {isActive(run)
                ? "The curve begins with the first epoch."
                : "This run did not get as far as training."}
            </p>
          )}
        </Card>
      </div>
      {report.isPending && <LoadingPage what="the report" />}
      {report.isError && !data && (
        <Failed
          what="The run’s report could not be loaded"
          error={report.error}
          retry={() => void report.refetch()}
        />
      )}
      {data && (
        <>
          <div className="run-pictures">
            <Holdout report={data} />
            {data.categories && <Categories categories={data.categories} />}
          </div>
          {data.corrections && <Corrections corrections={data.corrections} />}
          {data.confusion && <Confusion confusion={data.confusion} />}
          {data.added && (
            <Added runId={run.run_id} datasetVersion={data.dataset_version} added={data.added} />
          )}
          {data.params && <Params params={data.params} changed={data.params_changed} commit={data.commit} />}
          {!isActive(run) && <Missing missing={data.missing} />}
        </>
      )}
    </div>
  );
}

function ToAllRuns() {
  return (
    <p className="small">
      <Link href="/">All runs</Link>
    </p>
  );
}

/** What the report has, and what came since; a second attempt at training begins anew. */
export function joined(reported: readonly Epoch[], live: readonly Epoch[]): readonly Epoch[] {
  const first = live[0];
  if (first === undefined) return reported;
  return [...reported.filter(({ epoch }) => epoch < first.epoch), ...live];
}

function Fact({ name, children }: { name: string; children: React.ReactNode }) {
  return (
    <div>
      <dt className="soft small">{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
