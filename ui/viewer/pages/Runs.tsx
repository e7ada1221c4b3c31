/** Every run, newest first, with what the models wait for above. */
import { useWindowVirtualizer } from "@tanstack/react-virtual";
import { memo, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { Link } from "wouter";
import { useParameter } from "../../shared/address.ts";
import { Button } from "../../shared/components/Button.tsx";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { StatusMark } from "../../shared/components/StatusMark.tsx";
import { Empty, Failed } from "../../shared/components/states.tsx";
import { count, sentence } from "../../shared/format.ts";
import { type Run, STAGES, verdictOf, wasPaused } from "../../shared/runs.ts";
import { Filter } from "../parts/Filter.tsx";
import { Head, LoadingPage, NoModel } from "../parts/Head.tsx";
import { ModelLines, ModelPanel } from "../parts/ModelPanel.tsx";
import { StageCells, StageStrip } from "../parts/StageMarks.tsx";
import { TRIGGERS, useOverview, useRuns } from "../runs.ts";
import "./Runs.css";

const WHOLE_PANELS = 3;

export function Runs() {
  const [model] = useParameter("model");
  const [status] = useParameter("status");
  const [trigger] = useParameter("trigger");
  const overview = useOverview();
  const asked = useRuns({ model, status, trigger });
  const models = overview.data?.models ?? [];
  const shown = models.filter(({ name }) => model === null || name === model);
  return (
    <div className="stack">
      <Head title="Runs" />
      {overview.data && !overview.data.orchestrator_alive && (
        <p className="runs-away" role="status">
          What works on runs is away: runs that are asked for wait until it is back. It starts again by
          itself.
        </p>
      )}
      {overview.isPending && <LoadingPage what="the runs" />}
      {overview.isError && !overview.data && (
        <Failed
          what="The models could not be loaded"
          error={overview.error}
          retry={() => {
            void overview.refetch();
            void asked.query.refetch();
          }}
        />
      )}
      {overview.isSuccess && model !== null && shown.length === 0 && <NoModel wanted={model} />}
      {shown.length > WHOLE_PANELS ? (
        <ModelLines models={shown} />
      ) : (
        shown.map((one) => (
          <ModelPanel key={one.name} model={one} isAlive={overview.data?.orchestrator_alive ?? true} />
        ))
      )}
      {/* Not before what stands above it is known: it would be pushed down. Asked for all the while. */}
      {!overview.isPending && (overview.data || asked.runs.length > 0) && (
        <RunList models={models.map(({ name }) => name)} asked={asked} />
      )}
    </div>
  );
}

const STATES: [string, string][] = [
  ["running", "Running"],
  ["queued", "Queued"],
  ["succeeded", "Succeeded"],
  ["rejected", "Not promoted"],
  ["halted", "Too little new"],
  ["failed", "Failed"],
  ["interrupted", "Interrupted"],
  ["cancelled", "Cancelled"],
];

interface RunListProps {
  models: readonly string[];
  asked: ReturnType<typeof useRuns>;
}

function RunList({ models, asked: { query, runs } }: RunListProps) {
  const [model, setModel] = useParameter("model");
  const [status, setStatus] = useParameter("status");
  const [trigger, setTrigger] = useParameter("trigger");
  const isFiltered = model !== null || status !== null || trigger !== null;
  return (
    <section className="stack" aria-label="Runs">
      {(isFiltered || runs.length > 0 || !query.isSuccess) && (
        <div className="row runs-filters">
          <Filter
            name="Model"
            parameter="model"
            all="Every model"
            options={models.map((name) => [name, name])}
          />
          <Filter name="State" parameter="status" all="Any state" options={STATES} />
          <Filter name="Started" parameter="trigger" all="Any way" options={Object.entries(TRIGGERS)} />
          {isFiltered && (
            <Button
              kind="quiet"
              onClick={() => {
                setModel(null);
                setStatus(null);
                setTrigger(null);
              }}
            >
              Show all runs
            </Button>
          )}
        </div>
      )}
      {query.isPending && <LoadingPage what="the runs" />}
      {query.isError && runs.length === 0 && (
        <Failed what="The runs could not be loaded" error={query.error} retry={() => void query.refetch()} />
      )}
      {query.isSuccess && runs.length === 0 && (
        <Empty title={isFiltered ? "No run is like that" : "No run yet"}>
          <p>
            {isFiltered
              ? "Choose other filters, or show all runs."
              : models.length > 0
                ? "“Retrain now” starts one."
                : "The first one begins by itself when Emend starts."}
          </p>
        </Empty>
      )}
      {runs.length > 0 && (
        <Rows
          runs={runs}
          hasMore={query.hasNextPage}
          more={() => {
            if (!query.isFetchingNextPage) void query.fetchNextPage();
          }}
        />
      )}
    </section>
  );
}

const WIDE = matchMedia("(min-width: 64rem)");
const WIDE_ROW = 92; // Runs.css: .runs-row
const CARD = 190;
function watchWidth(told: () => void): () => void {
  WIDE.addEventListener("change", told);
  return () => WIDE.removeEventListener("change", told);
}

interface RowsProps {
  runs: readonly Run[];
  hasMore: boolean;
  more: () => void;
}

function Rows(props: RowsProps) {
  const isWide = useSyncExternalStore(watchWidth, () => WIDE.matches);
  return (
    <div>
      {isWide ? <RunTable {...props} /> : <RunCards {...props} />}
      {props.hasMore && <p className="small soft runs-more">Loading older runs…</p>}
    </div>
  );
}

/** Only the rows in sight are in the page, however many there are. */
function useRowsInSight<Body extends HTMLElement>({ runs, hasMore, more }: RowsProps, rowHeight: number) {
  const body = useRef<Body>(null);
  const [top, setTop] = useState(0);
  // What stands above grows and shrinks: where the list begins is measured after every change of the page's height.
  useEffect(() => {
    const measure = () => setTop((body.current?.getBoundingClientRect().top ?? 0) + scrollY);
    const watcher = new ResizeObserver(measure);
    watcher.observe(document.body);
    measure();
    return () => watcher.disconnect();
  }, []);
  const virtual = useWindowVirtualizer({
    count: runs.length,
    estimateSize: () => rowHeight,
    getItemKey: (index) => runs[index]?.run_id ?? index,
    overscan: 8,
    scrollMargin: top,
  });
  const items = virtual.getVirtualItems();
  const last = items.at(-1)?.index ?? 0;
  useEffect(() => {
    if (hasMore && last >= runs.length - 20) more();
  });
  const shown = items.flatMap(({ index, start }) => {
    const run = runs[index];
    return run ? [{ run, index, style: { transform: `translateY(${start - top}px)` } }] : [];
  });
  return { body, shown, style: { height: virtual.getTotalSize() }, measure: virtual.measureElement };
}

const COLUMNS = ["Run", "Started", ...STAGES, "New images", "Verdict", "Version"];

function RunTable(props: RowsProps) {
  const { body, shown, style } = useRowsInSight<HTMLTableSectionElement>(props, WIDE_ROW);
  return (
    <table className="runs-table" aria-rowcount={props.hasMore ? -1 : props.runs.length + 1}>
      <caption className="aloud">Runs, newest first</caption>
      <thead>
        <tr className="runs-columns" aria-rowindex={1}>
          {COLUMNS.map((name) => (
            <th key={name} scope="col">
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody ref={body} className="runs-body" style={style}>
        {shown.map(({ run, index, style }) => (
          <tr key={run.run_id} className="runs-row" aria-rowindex={index + 2} style={style}>
            <Row run={run} />
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function RunCards(props: RowsProps) {
  const { body, shown, style, measure } = useRowsInSight<HTMLUListElement>(props, CARD);
  return (
    <ul ref={body} className="runs-cards" aria-label="Runs, newest first" style={style}>
      {shown.map(({ run, index, style }) => (
        <li key={run.run_id} ref={measure} data-index={index} className="runs-card" style={style}>
          <RunCard run={run} />
        </li>
      ))}
    </ul>
  );
}

const Row = memo(function Row({ run }: { run: Run }) {
  return (
    <>
      <th scope="row" className="runs-id">
        <Link href={`/runs/${run.run_id}`}>Run {run.run_id}</Link>
        <StatusMark status={run.status} />
      </th>
      <td className="runs-cell">
        <span>{TRIGGERS[run.trigger]}</span>
        <span className="small soft" title={run.model}>
          {run.model}
        </span>
        <span className="small soft">
          <LocalTime at={run.requested_at} />
        </span>
      </td>
      <StageCells run={run} />
      <td className="runs-cell number">{run.new_images === null ? "–" : count(run.new_images)}</td>
      <td className="runs-cell">
        <Outcome run={run} />
      </td>
      <td className="runs-cell number">
        {run.version === null ? (
          "–"
        ) : (
          <Link href={`/versions?model=${encodeURIComponent(run.model)}&b=${run.version}`}>
            {run.version}
          </Link>
        )}
      </td>
      <td className="runs-said" colSpan={COLUMNS.length} title={said(run)}>
        {said(run)}
      </td>
    </>
  );
});

const RunCard = memo(function RunCard({ run }: { run: Run }) {
  return (
    <article className="stack runs-card-body" aria-label={`Run ${run.run_id}`}>
      <div className="runs-card-head">
        <Link href={`/runs/${run.run_id}`}>Run {run.run_id}</Link>
        <StatusMark status={run.status} />
        <span className="small soft">
          <LocalTime at={run.requested_at} />
        </span>
      </div>
      <StageStrip run={run} />
      <p className="small soft">
        {run.model} · {TRIGGERS[run.trigger].toLowerCase()}
        {run.new_images !== null && ` · ${count(run.new_images)} new`}
        {run.version !== null && ` · version ${run.version}`}
      </p>
      {said(run) && <p className="small runs-card-said">{said(run)}</p>}
    </article>
  );
});

function said(run: Run): string {
  return verdictOf(run) ?? (run.message === null ? "" : sentence(run.message));
}

function Outcome({ run }: { run: Run }) {
  if (run.verdict === null) return <span>–</span>;
  const figures = run.verdict.figures as Record<string, number> | undefined;
  const isPromoted = run.verdict.promoted ?? run.verdict.promote;
  return (
    <>
      <span>{isPromoted ? (wasPaused(run) ? "Better, not live" : "Better") : "Not better"}</span>
      {figures && (figures.corrections_images ?? 0) > 0 && (
        <>
          <span className="small soft">fixed {figures.corrections_fixed ?? 0}</span>
          <span className="small soft">broke {figures.corrections_broke ?? 0}</span>
        </>
      )}
    </>
  );
}
