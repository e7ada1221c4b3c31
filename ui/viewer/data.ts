/**
 * What the viewer's pages ask for, and in which shape it comes. The viewer's own OpenAPI leaves its answers open, so
 * the shapes are written down here, as viewer/app.py tells them.
 */
import { type GatewayComponents, gateway, viewer } from "../shared/api/client.ts";
import type { components as ViewerComponents } from "../shared/api/viewer.ts";
import type { Run, StageName } from "../shared/runs.ts";

type Asked = {
  path?: Record<string, string | number>;
  query?: Record<string, string | number | boolean | null | undefined>;
  signal?: AbortSignal;
  timeoutMs?: number;
};
const askViewer = viewer.get as unknown as <Answer>(path: string, asked?: Asked) => Promise<Answer>;
type Schemas = ViewerComponents["schemas"];

export type Overview = Schemas["Overview"];
export type ModelOverview = Schemas["ModelOverview"];

/** Medians of the last runs that went through. */
export type RunEstimate = Omit<Schemas["RunEstimate"], "stages"> & {
  stages: Partial<Record<StageName, number>>;
};

export const askOverview = (signal?: AbortSignal): Promise<Overview> =>
  viewer.get("/overview", signal ? { signal } : {});

export interface RunFilter {
  model: string | null;
  status: string | null;
  trigger: string | null;
}

export interface RunPage {
  runs: Run[];
  next_before: number | null;
}

export const RUNS_A_PAGE = 100;

export const askRuns = (
  filter: RunFilter,
  before: number | null,
  signal?: AbortSignal,
  limit = RUNS_A_PAGE,
): Promise<RunPage> =>
  askViewer("/pipeline_runs", { query: { ...filter, before, limit }, ...(signal && { signal }) });

export const askRun = (run_id: number, signal?: AbortSignal): Promise<Run> =>
  askViewer("/pipeline_runs/{run_id}", { path: { run_id }, ...(signal && { signal }) });

/** Whatever a run has not got to, or what retention took away, is null. */
export type Report = Schemas["Report"];
export type HoldoutSide = Schemas["Side"];
type Generated = "generated_images" | "champion_generated_recall" | "challenger_generated_recall";
export type CategoryRecall = Omit<Schemas["CategoryReport"], Generated> &
  Partial<Pick<Schemas["CategoryReport"], Generated>>;
export type JudgedCorrection = Schemas["JudgedCorrection"];
export type Change = JudgedCorrection["change"];
export type GateRule = Schemas["GateRule"];
export type Epoch = Pick<
  Schemas["Epoch"],
  "epoch" | "epochs" | "train_loss" | "validation_loss" | "validation_accuracy" | "seconds"
>;
export type Added = Schemas["Added"];
export type AddedImage = Schemas["AddedImage"];

export const askReport = (run_id: number, signal?: AbortSignal): Promise<Report> =>
  viewer.get("/pipeline_runs/{run_id}/report", { path: { run_id }, ...(signal && { signal }) });

export const askAddedImages = (
  run_id: number,
  filter: { label: string | null; split: string | null },
  before: number | null,
  signal?: AbortSignal,
) =>
  viewer.get("/pipeline_runs/{run_id}/images", {
    path: { run_id },
    query: { ...filter, before, limit: 100 },
    ...(signal && { signal }),
  });

export interface Version {
  version: number;
  run_id: number | null;
  created_at: string;
  dataset_version: number | null;
  verdict_sentence: string | null;
  /** It was live at some time, or is. */
  promoted: boolean;
  holdout_accuracy: number | null;
  figures: Record<string, unknown> | null;
  weights_removed_at: string | null;
  aliases: string[];
  live: { from: string; to: string | null }[];
  mlflow_url: string | null;
}

export const askVersions = (name: string, signal?: AbortSignal): Promise<{ items: Version[] }> =>
  askViewer("/models/{name}/versions", { path: { name }, ...(signal && { signal }) });

export interface LedgerItem {
  id: number;
  action: "promote" | "rollback" | (string & {});
  version: number;
  replaced_version: number | null;
  run_id: number | null;
  actor: string;
  reason: string;
  opened_at: string;
  outcome: string | null;
  closed_at: string | null;
}

export const askLedger = (name: string, signal?: AbortSignal): Promise<{ items: LedgerItem[] }> =>
  askViewer("/models/{name}/ledger", { path: { name }, ...(signal && { signal }) });

export const askLive = (
  name: string,
  at: string,
  signal?: AbortSignal,
): Promise<{ version: number | null; since: string | null }> =>
  askViewer("/models/{name}/live", { path: { name }, query: { at }, ...(signal && { signal }) });

export interface Comparison {
  a: Version;
  b: Version;
  /** Both asked about the same images now; the difference is b less a. */
  holdout?: {
    of: "holdout" | "generated";
    dataset_version: number;
    images: number;
    sampled_from: number;
    a: HoldoutSide;
    b: HoldoutSide;
    difference: { points: number; low: number | null; high: number | null };
  } | null;
  /** What could not be compared, and why. */
  missing?: string[];
  categories: { name: string; a_recall: number | null; b_recall: number | null; images: number }[] | null;
  differ: {
    count: number;
    items: {
      correction_id: string | null;
      sha256: string;
      label: string;
      image: string;
      a_label: string | null;
      b_label: string | null;
    }[];
  } | null;
}

export const askComparison = (
  name: string,
  a: number,
  b: number,
  signal?: AbortSignal,
): Promise<Comparison> =>
  askViewer("/models/{name}/compare", {
    path: { name },
    query: { a, b },
    timeoutMs: 120_000,
    ...(signal && { signal }),
  });

export type ListedCorrection = GatewayComponents["schemas"]["CorrectionItem"];

export interface CorrectionFilter {
  model: string | null;
  status: GatewayComponents["schemas"]["CorrectionStatus"];
  reason: string | null;
  label: string | null;
  /** As the address has it: the gateway refuses one it does not know. */
  source: string | null;
}

export const askCorrections = (
  filter: Partial<CorrectionFilter>,
  before: string | null,
  signal?: AbortSignal,
) =>
  gateway.get("/corrections", {
    query: { ...filter, source: (filter.source ?? null) as Source, before, limit: 200 },
    ...(signal && { signal }),
  });

type Source = "correction" | "sample" | "review" | null;

export type Decision = GatewayComponents["schemas"]["ReviewDecision"];
export type Action = Decision["action"];

export const review = (decisions: Decision[]) => gateway.post("/corrections/review", { body: { decisions } });

export const promote = (name: string, version: number, reason: string) =>
  gateway.post("/models/{name}/promote", { path: { name }, body: { version, reason } });

/** Addresses in answers begin with the root of the service that has them. */
export function shownAt(address: string): string {
  const service = /^\/?(corrections|predictions)\//.test(address) ? "api" : "runs";
  return `${service}/${address.replace(/^\//, "")}`;
}
