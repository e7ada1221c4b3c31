/**
 * The versions of a model: which was live when and why, what is tried out beside it, any two side by side; promoting,
 * trying out and rolling back.
 */
import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useId, useMemo, useRef, useState } from "react";
import { Link } from "wouter";
import { useParameter } from "../../shared/address.ts";
import { Button } from "../../shared/components/Button.tsx";
import { Card } from "../../shared/components/Card.tsx";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { StatusMark } from "../../shared/components/StatusMark.tsx";
import { Empty, Failed, Loading } from "../../shared/components/states.tsx";
import { count, counted, duration, minus, percent, sentence } from "../../shared/format.ts";
import { useLive } from "../../shared/live.ts";
import {
  askLedger,
  askLive,
  askVersions,
  type LedgerItem,
  type ModelOverview,
  type Trial,
  type Version,
} from "../data.ts";
import { Promote, ResumePromotion, RollBack } from "../parts/actions.tsx";
import { Compare, showComparison } from "../parts/Compare.tsx";
import { Head, LoadingPage, NoModel } from "../parts/Head.tsx";
import { EndedTrials, OpenTrial } from "../parts/Trials.tsx";
import { Try } from "../parts/trying.tsx";
import { useOverview } from "../runs.ts";
import { underWay, useTrials } from "../trials.ts";
import "./Versions.css";

const FIRST = 8;
const FIRST_OF_LEDGER = 11; // about as high
const MORE = 40;

export function Versions() {
  const overview = useOverview();
  const [wanted] = useParameter("model");
  const models = overview.data?.models ?? [];
  const model = wanted === null ? models[0] : models.find(({ name }) => name === wanted);
  return (
    <div className="stack versions">
      <Head title="Versions" models={overview.isPending ? null : models.map(({ name }) => name)} />
      {overview.isPending && <LoadingPage what="the versions" />}
      {overview.isError && !overview.data && (
        <Failed
          what="The models could not be loaded"
          error={overview.error}
          retry={() => void overview.refetch()}
        />
      )}
      {overview.isSuccess && !model && <NoModel wanted={wanted} />}
      {model && <OfModel key={model.name} model={model} />}
    </div>
  );
}

function OfModel({ model }: { model: ModelOverview }) {
  const { name, promotion_paused_at: pausedAt } = model;
  const queries = useQueryClient();
  useLive(({ stage, status, model: of }) => {
    if (
      of !== name ||
      (stage !== "promote" && stage !== "register" && stage !== null) ||
      status === "running"
    )
      return;
    void queries.invalidateQueries({ queryKey: ["versions", name] });
    void queries.invalidateQueries({ queryKey: ["ledger", name] });
  });
  const versions = useInfiniteQuery({
    queryKey: ["versions", name, "all"],
    queryFn: ({ pageParam, signal }) => askVersions(name, signal, pageParam),
    initialPageParam: null as number | null,
    getNextPageParam: (page) => page.next_before,
  });
  const ledger = useQuery({ queryKey: ["ledger", name], queryFn: ({ signal }) => askLedger(name, signal) });
  const trials = useTrials(name);
  const trial = underWay(trials.data);
  useAfterTrial(name, trial);
  const items = useMemo(() => versions.data?.pages.flatMap((page) => page.items) ?? [], [versions.data]);
  const isRegistryAway = versions.data?.pages[0]?.aliases_from === "ledger";
  const live = items.find(({ aliases }) => aliases.includes("champion"));
  // What is tried out stands above the versions, which would jump.
  const isWaiting = versions.isPending || (items.length > 0 && trials.isPending && trials.failureCount === 0);
  return (
    <>
      {isWaiting && <LoadingPage what="the versions" />}
      {versions.isError && items.length === 0 && (
        <Failed
          what="The versions could not be loaded"
          error={versions.error}
          retry={() => void versions.refetch()}
        />
      )}
      {versions.isSuccess && items.length === 0 && (
        <Empty title="There is no version yet">
          <p>
            The first run that goes through makes one. <Link href="/">To the runs</Link>
          </p>
        </Empty>
      )}
      {items.length > 0 && !isWaiting && (
        <>
          {isRegistryAway && (
            <p className="versions-paused small" role="status">
              MLflow does not answer just now: nothing can be put live, tried out or rolled back until it is
              there again.
            </p>
          )}
          <section className="versions-live" aria-label="What is live">
            <div>
              <p className="versions-live-name">
                {live ? `Version ${live.version} is live` : "No version is live"}
              </p>
              {live && (
                <p className="soft">
                  {live.holdout_accuracy !== null &&
                    `${percent(live.holdout_accuracy)} right on the holdout, `}
                  trained on dataset {live.dataset_version ?? "unknown"}
                  {live.run_id !== null && (
                    <>
                      , by <Link href={`/runs/${live.run_id}`}>run {live.run_id}</Link>
                    </>
                  )}
                </p>
              )}
              {pausedAt && (
                <p className="versions-paused small">
                  Promotion is paused since <LocalTime at={pausedAt} />, after a rollback: runs put nothing
                  live.
                </p>
              )}
            </div>
            <div className="row">
              <RollBack
                model={name}
                live={live?.version ?? null}
                previous={model.previous}
                isRegistryAway={isRegistryAway}
              />
              {pausedAt && <ResumePromotion model={model} />}
            </div>
          </section>
          {trial && (
            <OpenTrial
              trial={trial}
              version={items.find(({ version }) => version === trial.version) ?? null}
              isRegistryAway={isRegistryAway}
              oldSince={trials.isError ? trials.dataUpdatedAt : null}
            />
          )}
          <div className="versions-columns">
            <VersionList
              name={name}
              versions={items}
              live={live?.version ?? null}
              trial={trial}
              isRegistryAway={isRegistryAway}
              more={versions.hasNextPage ? () => void versions.fetchNextPage() : undefined}
            />
            <div className="stack">
              <Card title="What was live when">
                <LiveAt name={name} />
                {ledger.isPending && <Loading what="the ledger" lines={6} />}
                {ledger.isError && !ledger.data && (
                  <Failed
                    what="The ledger could not be loaded"
                    error={ledger.error}
                    retry={() => void ledger.refetch()}
                  />
                )}
                {ledger.data && <Timeline items={ledger.data} />}
              </Card>
              {trials.isError && !trials.data && (
                <Failed
                  what="What was tried out could not be loaded"
                  error={trials.error}
                  retry={() => void trials.refetch()}
                />
              )}
              {trials.data && !ledger.isPending && (
                <EndedTrials trials={trials.data.filter(({ ended_at }) => ended_at !== null)} />
              )}
            </div>
          </div>
          <Compare name={name} versions={items} live={live?.version ?? null} />
        </>
      )}
    </>
  );
}

/** It may have ended by itself, or from a shell: what follows from that is asked for. */
function useAfterTrial(name: string, trial: Trial | null): void {
  const queries = useQueryClient();
  const id = trial?.id ?? null;
  const before = useRef(id);
  useEffect(() => {
    if (before.current !== null && before.current !== id)
      for (const of of ["versions", "ledger"]) void queries.invalidateQueries({ queryKey: [of, name] });
    before.current = id;
  }, [queries, name, id]);
}

interface VersionListProps {
  name: string;
  versions: readonly Version[];
  live: number | null;
  trial: Trial | null;
  isRegistryAway: boolean;
  /** There are older ones to ask for. */
  more: (() => void) | undefined;
}

function VersionList({ name, versions, live, trial, isRegistryAway, more }: VersionListProps) {
  const [shown, setShown] = useState(FIRST);
  return (
    <Card title={more ? `The newest ${count(versions.length)}` : counted(versions.length, "version")}>
      <ul className="versions-list" data-away={isRegistryAway || undefined}>
        {versions.slice(0, shown).map((version) => (
          <li key={version.version} className="versions-item">
            <div className="versions-item-head">
              <h3>Version {version.version}</h3>
              <Marks version={version} trial={trial} />
              <span className="small soft">
                <LocalTime at={version.created_at} />
              </span>
            </div>
            <p className="small soft">
              {version.run_id !== null && (
                <>
                  <Link href={`/runs/${version.run_id}`}>run {version.run_id}</Link>,{" "}
                </>
              )}
              dataset {version.dataset_version ?? "unknown"}
              {version.holdout_accuracy !== null && `, ${percent(version.holdout_accuracy)} on the holdout`}
              {version.mlflow_url && (
                <>
                  , <a href={version.mlflow_url}>in MLflow</a>
                </>
              )}
            </p>
            {version.verdict_sentence && (
              <p className="small versions-said">{minus(version.verdict_sentence)}</p>
            )}
            <div className="row versions-buttons">
              <Promote
                model={name}
                version={version}
                live={live}
                isRegistryAway={isRegistryAway}
                trial={trial}
              />
              {version.version !== live && !version.weights_removed_at && (
                <Try
                  model={name}
                  version={version.version}
                  live={live}
                  trial={trial}
                  isRegistryAway={isRegistryAway}
                />
              )}
              {live !== null && version.version !== live && (
                <Link
                  href={`/versions?model=${encodeURIComponent(name)}&a=${live}&b=${version.version}`}
                  className="versions-compare"
                  onClick={() => setTimeout(showComparison)}
                >
                  Compare with live
                </Link>
              )}
            </div>
          </li>
        ))}
      </ul>
      {(versions.length > shown || more) && (
        <Button
          kind="quiet"
          onClick={() => {
            setShown(shown + MORE);
            if (versions.length <= shown + MORE) more?.();
          }}
        >
          Show older ones
        </Button>
      )}
    </Card>
  );
}

function Marks({ version, trial }: { version: Version; trial: Trial | null }) {
  const { aliases, weights_removed_at: removed, live } = version;
  if (aliases.includes("champion")) return <StatusMark status="live" />;
  if (trial?.version === version.version)
    return <StatusMark status="challenger" word={trial.kind === "canary" ? "Canary" : "Shadow"} />;
  if (removed) return <StatusMark status="retired" word="Weights removed" />;
  if (aliases.includes("previous")) return <StatusMark status="previous" />;
  return live.length > 0 ? (
    <StatusMark status="superseded" word="Was live" />
  ) : (
    <StatusMark status="waiting" word="Never live" />
  );
}

/** What was live at a moment of the reader's own time. */
function LiveAt({ name }: { name: string }) {
  const id = useId();
  const [at, setAt] = useState("");
  const instant = at === "" ? null : new Date(at);
  const isMoment = instant !== null && !Number.isNaN(instant.getTime());
  const answer = useQuery({
    queryKey: ["ledger", name, "live", at],
    queryFn: ({ signal }) => askLive(name, (instant ?? new Date()).toISOString(), signal),
    enabled: isMoment,
  });
  return (
    <div className="live-at">
      <label htmlFor={id}>Which one answered at</label>
      <input
        id={id}
        type="datetime-local"
        value={at}
        max="9999-12-31T23:59"
        onChange={(event) => setAt(event.target.value)}
      />
      <p role="status">
        {!isMoment ? (
          <span className="soft">Choose a moment.</span>
        ) : answer.data ? (
          answer.data.version === null ? (
            "None was live then."
          ) : (
            <>
              <strong>Version {answer.data.version}</strong>
              {answer.data.since && (
                <>
                  , since <LocalTime at={answer.data.since} />
                </>
              )}
            </>
          )
        ) : answer.isError ? (
          sentence(answer.error.message)
        ) : (
          <span className="soft">Asking…</span>
        )}
      </p>
    </div>
  );
}

/** What happened, or did not: an entry that was reverted or abandoned changed nothing. */
export function heading({
  action,
  version,
  outcome,
}: Pick<LedgerItem, "action" | "version" | "outcome">): string {
  if (isTrial(action)) return `Version ${version} was tried out as a ${action}`;
  const isUndone = outcome !== null && outcome !== "done";
  if (action === "rollback")
    return isUndone ? `Not back to version ${version}` : `Back to version ${version}`;
  return isUndone ? `Version ${version} did not go live` : `Version ${version} went live`;
}

/** Written when it ended without going live: the live version was the same before and after. */
const isTrial = (action: string) => action === "shadow" || action === "canary";

function Timeline({ items }: { items: readonly LedgerItem[] }) {
  const [shown, setShown] = useState(FIRST_OF_LEDGER);
  if (items.length === 0) return <p className="soft">Nothing has gone live yet.</p>;
  const done = items.filter(({ outcome }) => outcome === "done");
  return (
    <>
      <ol className="timeline" aria-label="The ledger, newest first">
        {items.slice(0, shown).map((item) => (
          <li
            key={item.id}
            data-action={item.action}
            data-outcome={item.outcome ?? "open"}
            data-now={item === done[0] || undefined}
          >
            <h3>
              {heading(item)}
              {item.outcome === null && <StatusMark status="open" />}
            </h3>
            <p className="small soft">
              <LocalTime at={item.opened_at} />
              {lasted(item, done)} · {isTrial(item.action) && "ended "}
              {by(item)}
              {item.replaced_version !== null &&
                (isTrial(item.action)
                  ? ` · version ${item.replaced_version} stayed live`
                  : ` · instead of version ${item.replaced_version}`)}
            </p>
            <p className="small timeline-why">{minus(item.reason)}</p>
          </li>
        ))}
      </ol>
      {items.length > shown && (
        <Button kind="quiet" onClick={() => setShown(shown + MORE)}>
          Show older ones
        </Button>
      )}
    </>
  );
}

function by(item: LedgerItem): React.ReactNode {
  if (item.run_id !== null && item.actor === `run ${item.run_id}`) {
    return (
      <>
        by the gate, in <Link href={`/runs/${item.run_id}`}>run {item.run_id}</Link>
      </>
    );
  }
  return item.actor === "gate" ? "by the gate" : `by ${item.actor}`;
}

/** How long it was live, or tried out; nothing for what still is. done: newest first. */
function lasted(item: LedgerItem, done: readonly LedgerItem[]): string {
  if (isTrial(item.action) && item.closed_at !== null)
    return `, for ${between(item.opened_at, item.closed_at)}`;
  if (item.outcome !== "done") return "";
  const next = done[done.findIndex(({ id }) => id === item.id) - 1];
  if (next === undefined) return ", live until now";
  return `, live for ${between(item.opened_at, next.opened_at)}`;
}

const between = (from: string, to: string) => duration((Date.parse(to) - Date.parse(from)) / 1000);
