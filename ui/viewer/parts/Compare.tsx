/** Any two versions side by side: their figures, each category, the images on which they differ. */
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useId } from "react";
import { Link } from "wouter";
import { useParameter } from "../../shared/address.ts";
import { Button } from "../../shared/components/Button.tsx";
import { Card } from "../../shared/components/Card.tsx";
import { DataTable } from "../../shared/components/DataTable.tsx";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { Failed, Loading } from "../../shared/components/states.tsx";
import { count, counted, percent } from "../../shared/format.ts";
import { askComparison, type Comparison, type HoldoutSide, type Version } from "../data.ts";
import "./Compare.css";
import { ImageGrid } from "./ImageGrid.tsx";
import { type IntervalRow, Intervals } from "./Intervals.tsx";
import { Categories } from "./Verdict.tsx";

interface Props {
  name: string;
  /** Newest first. */
  versions: readonly Version[];
  live: number | null;
}

const ID = "side-by-side";

export function showComparison(): void {
  const place = document.getElementById(ID);
  place?.scrollIntoView();
  place?.focus({ preventScroll: true });
}

export function Compare({ name, versions, live }: Props) {
  const [wantedA, setA] = useParameter("a");
  const [wantedB, setB] = useParameter("b");
  const known = versions.map(({ version }) => version);
  const [a, b] = pair(known, live, Number(wantedA), Number(wantedB));
  const isPair = a !== undefined && b !== undefined && a !== b;
  const answer = useQuery({
    queryKey: ["versions", name, "compare", a, b],
    queryFn: ({ signal }) => askComparison(name, a ?? 0, b ?? 0, signal),
    enabled: isPair,
    staleTime: 60_000,
    placeholderData: keepPreviousData,
  });
  if (versions.length < 2) return null;
  return (
    <div id={ID} tabIndex={-1}>
      <Card title="Side by side">
        <div className="row compare-choice">
          <Choice name="Version" value={a} versions={versions} choose={(one) => setA(String(one))} />
          <Choice name="and version" value={b} versions={versions} choose={(one) => setB(String(one))} />
          <Button
            kind="quiet"
            onClick={() => {
              setA(String(b));
              setB(String(a));
            }}
          >
            Swap
          </Button>
        </div>
        {!isPair && <p className="soft">Choose two different versions.</p>}
        {isPair && answer.isPending && <Loading what="the comparison" lines={10} />}
        {isPair && answer.isError && !answer.data && (
          <Failed
            what="The two could not be compared"
            error={answer.error}
            retry={() => void answer.refetch()}
          />
        )}
        {isPair && answer.data && (
          <div className="stack compare" aria-busy={answer.isPlaceholderData}>
            <Figures comparison={answer.data} />
            <SameImages comparison={answer.data} />
            <Differ comparison={answer.data} />
            {answer.data.categories && answer.data.categories.length > 0 && (
              <Categories
                level={3}
                words={[`version ${answer.data.a.version}`, `version ${answer.data.b.version}`]}
                categories={answer.data.categories.map(({ name, a_recall, b_recall, images }, id) => ({
                  id,
                  name,
                  images,
                  champion_recall: a_recall,
                  challenger_recall: b_recall,
                  low: null,
                  high: null,
                }))}
              />
            )}
          </div>
        )}
      </Card>
    </div>
  );
}

/** Those wanted when there are such; else the live one and the newest of the others. */
export function pair(
  known: readonly number[],
  live: number | null,
  wantedA: number,
  wantedB: number,
): [a: number | undefined, b: number | undefined] {
  const b = known.includes(wantedB)
    ? wantedB
    : known.find((one) => one !== (known.includes(wantedA) ? wantedA : live));
  if (known.includes(wantedA)) return [wantedA, b];
  if (live !== null && live !== b) return [live, b];
  return [known.find((one) => b !== undefined && one < b) ?? known.find((one) => one !== b), b];
}

interface ChoiceProps {
  name: string;
  value: number | undefined;
  versions: readonly Version[];
  choose: (version: number) => void;
}

function Choice({ name, value, versions, choose }: ChoiceProps) {
  const id = useId();
  return (
    <span className="compare-one">
      <label htmlFor={id}>{name}</label>
      <select id={id} value={value ?? ""} onChange={(event) => choose(Number(event.target.value))}>
        {versions.map(({ version, aliases }) => (
          <option key={version} value={version}>
            {version}
            {aliases.includes("champion") ? " (live)" : ""}
          </option>
        ))}
      </select>
    </span>
  );
}

function Figures({ comparison: { a, b } }: { comparison: Comparison }) {
  const rows: [string, (version: Version) => React.ReactNode][] = [
    [
      "Right on the holdout when made",
      ({ holdout_accuracy: share }) => (share === null ? "no real images then" : percent(share)),
    ],
    ["Trained on", ({ dataset_version: dataset }) => (dataset === null ? "unknown" : `dataset ${dataset}`)],
    ["Made", ({ created_at }) => <LocalTime at={created_at} />],
    ["By", ({ run_id }) => (run_id === null ? "–" : <Link href={`/runs/${run_id}`}>run {run_id}</Link>)],
    ["Was live", ({ live }) => (live.length === 0 ? "never" : counted(live.length, "time"))],
  ];
  return (
    <DataTable
      caption="Figures of both"
      rows={rows}
      rowKey={([name]) => name}
      columns={[
        { name: "Figure", cell: ([name]) => name, isHeader: true },
        { name: `Version ${a.version}`, cell: ([, cell]) => cell(a) },
        { name: `Version ${b.version}`, cell: ([, cell]) => cell(b) },
      ]}
    />
  );
}

/** Both asked about the same images just now. */
function SameImages({ comparison: { a, b, holdout, missing = [] } }: { comparison: Comparison }) {
  const row = (name: string, { accuracy, low, high }: HoldoutSide, strong: boolean): IntervalRow => ({
    name,
    value: 100 * accuracy,
    low: low === null ? null : 100 * low,
    high: high === null ? null : 100 * high,
    strong,
  });
  return (
    <>
      {holdout && (
        <section className="stack">
          <h3>
            Both asked about the same {counted(holdout.images, of(holdout.of))}
            <span className="soft small">
              {" "}
              of dataset {holdout.dataset_version}
              {holdout.sampled_from > holdout.images && `, of ${count(holdout.sampled_from)} there are`}
            </span>
          </h3>
          <Intervals
            rows={[
              row(`Version ${a.version}`, holdout.a, false),
              row(`Version ${b.version}`, holdout.b, true),
            ]}
            unit="%"
            limits={[0, 100]}
          />
          <Intervals
            rows={[
              {
                name: `${b.version} less ${a.version}`,
                value: holdout.difference.points,
                low: holdout.difference.low,
                high: holdout.difference.high,
              },
            ]}
            unit="points"
            zero
            signed
          />
        </section>
      )}
      {missing.length > 0 && <p className="soft small">Not compared: {missing.join("; ")}.</p>}
    </>
  );
}

const of = (slice: "holdout" | "generated") => (slice === "holdout" ? "holdout image" : "generated image");

function Differ({ comparison: { a, b, differ } }: { comparison: Comparison }) {
  if (differ === null) return null;
  if (differ.count === 0) return <p>They answer the same to every image that both were asked about.</p>;
  return (
    <section className="stack">
      <h3>They differ on {counted(differ.count, "image")}</h3>
      <ImageGrid
        items={differ.items.map((item) => ({
          key: item.correction_id ?? item.sha256,
          image: item.image,
          alt: `${item.label}; version ${a.version}: ${item.a_label}, version ${b.version}: ${item.b_label}`,
          title: item.label,
          lines: [mark(a, item.a_label, item.label), mark(b, item.b_label, item.label)],
        }))}
      />
      {differ.count > differ.items.length && (
        <p className="small soft">The first {count(differ.items.length)} of them.</p>
      )}
    </section>
  );
}

function mark({ version }: Version, said: string | null, label: string): string {
  return `${version}: ${said === label ? "✓ " : ""}${said ?? "not asked"}`; // the mark first: a long name is cut
}
