/**
 * What the viewer's pages ask for, and in which shape it comes. The viewer's own OpenAPI leaves its answers open, so
 * the shapes are written down here, as viewer/app.py tells them.
 */
import { gateway, viewer } from "../shared/api/client.ts";
import type { Run, StageName } from "../shared/runs.ts";

type Asked = {
  path?: Record<string, string | number>;
  query?: Record<string, string | number | boolean | null | undefined>;
  signal?: AbortSignal;
  timeoutMs?: number;
};
const askViewer = viewer.get as unknown as <Answer>(path: string, asked?: Asked) => Promise<Answer>;
const askGateway = gateway.get as unknown as <Answer>(path: string, asked?: Asked) => Promise<Answer>;
const tellGateway = gateway.post as unknown as <Answer>(
  path: string,
  asked?: Asked & { body?: unknown },
) => Promise<Answer>;

/** Medians of the last runs that went through. */
export interface RunEstimate {
  seconds: number;
  runs: number;
  stages: Partial<Record<StageName, number>>;
}

export interface ModelOverview {
  name: string;
  champion: { version: number; since: string | null; holdout_accuracy: number | null } | null;
  promotion_paused_at: string | null;
  waiting: {
    corrections: number;
    missing_for_a_run: number;
    /** Null: no number of corrections starts a run by itself. */
    missing_for_the_trigger: number | null;
    /** Images in the dataset that the next run takes out again. */
    withdrawals?: number;
  };
  schedule: { cron: string; timezone: string; next_at: string | null } | null;
  active_run: number | null;
  run_estimate: RunEstimate | null;
  quarantined: number;
}

export interface Overview {
  models: ModelOverview[];
  orchestrator_alive: boolean;
  mlflow_url: string | null;
  gateway_url: string | null;
  ui_url: string | null;
}

export const askOverview = (signal?: AbortSignal): Promise<Overview> =>
  askViewer("/overview", signal ? { signal } : {});

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

/** Of one side on the holdout; low and high are the ends of the 95 % interval. Fractions, 0 to 1. */
export interface HoldoutSide {
  accuracy: number;
  low: number | null;
  high: number | null;
  images: number;
}

export interface CategoryRecall {
  id: number;
  name: string;
  images: number;
  champion_recall: number | null;
  challenger_recall: number | null;
  low: number | null;
  high: number | null;
}

export type Change = "fixed" | "broke" | "still wrong" | "still right";

export interface JudgedCorrection {
  correction_id: string;
  label: string;
  image: string;
  split: "learned" | "exam";
  champion_label: string | null;
  challenger_label: string | null;
  change: Change;
}

export interface Epoch {
  epoch: number;
  epochs: number;
  loss?: number | null;
  train_loss?: number | null;
  validation_loss?: number | null;
  validation_accuracy?: number | null;
  learning_rate?: number | null;
  seconds?: number | null;
}

export interface Added {
  images: number;
  by_label: Record<string, number>;
  by_source: Record<string, number>;
  by_split: Record<string, number>;
}

export interface GateRule {
  name: string;
  limit: unknown;
  value: unknown;
  held: boolean;
  sentence?: string | null;
}

/** Whatever a run has not got to, or what retention took away, is null. */
export interface Report {
  run_id: number;
  model: string;
  version: number | null;
  champion_version: number | null;
  dataset_version: number | null;
  commit: string | null;
  holdout: {
    champion: HoldoutSide | null;
    challenger: HoldoutSide | null;
    difference: { points: number; low: number | null; high: number | null } | null;
  } | null;
  categories: CategoryRecall[] | null;
  confusion: { categories: string[]; counts: number[][]; missing: string | null } | null;
  corrections: { fixed: number; broke: number; items: JudgedCorrection[] } | null;
  curve: Epoch[] | null;
  params: Record<string, unknown> | null;
  params_changed: { key: string; before: unknown; after: unknown }[] | null;
  added: Added | null;
  gate: { rules: GateRule[] } | null;
  missing?: string[] | null;
}

export const askReport = (run_id: number, signal?: AbortSignal): Promise<Report> =>
  askViewer("/pipeline_runs/{run_id}/report", { path: { run_id }, ...(signal && { signal }) });

export interface AddedImage {
  sha256: string;
  label: string;
  source: string;
  split: string;
  image: string;
}

export const askAddedImages = (
  run_id: number,
  filter: { label: string | null; split: string | null },
  before: string | number | null,
  signal?: AbortSignal,
): Promise<{ items: AddedImage[]; next_before: string | number | null }> =>
  askViewer("/pipeline_runs/{run_id}/images", {
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

export interface ListedCorrection {
  correction_id: string;
  model: string;
  image_sha256: string;
  label: string;
  source: string;
  status: string;
  reason: string | null;
  dataset_version: number | null;
  received_at: string;
  image: string;
  reviewed_at?: string | null;
  reviewed_by?: string | null;
  review?: string | null;
  withdrawn_at?: string | null;
}

export interface CorrectionFilter {
  model: string | null;
  status: string;
  reason: string | null;
  label: string | null;
  source: string | null;
}

export const askCorrections = (
  filter: Partial<CorrectionFilter>,
  before: string | null,
  signal?: AbortSignal,
): Promise<{ items: ListedCorrection[]; next_before: string | null }> =>
  askGateway("/corrections", { query: { ...filter, before, limit: 200 }, ...(signal && { signal }) });

export type Action = "accept" | "relabel" | "reject";

export interface Decision {
  correction_id: string;
  action: Action;
  label?: string;
}

export interface Decided {
  correction_id: string;
  status: string;
  reason: string | null;
  new_correction_id?: string | null;
}

export const review = (decisions: Decision[]): Promise<{ results: Decided[] }> =>
  tellGateway("/corrections/review", { body: { decisions } });

export const promote = (name: string, version: number, reason: string): Promise<unknown> =>
  tellGateway("/models/{name}/promote", { path: { name }, body: { version, reason } });

/** Addresses in answers begin with the root of the service that has them. */
export function shownAt(address: string): string {
  const service = /^\/?(corrections|predictions)\//.test(address) ? "api" : "runs";
  return `${service}/${address.replace(/^\//, "")}`;
}
