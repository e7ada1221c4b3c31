/** What the viewer's pages ask for. Shapes come from the services' OpenAPI; a run's is told more exactly in shared/runs.ts. */
import { type GatewayComponents, gateway, viewer } from "../shared/api/client.ts";
import type { components as ViewerComponents } from "../shared/api/viewer.ts";
import type { Run, StageName } from "../shared/runs.ts";

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

export const askRuns = async (
  { model, status, trigger }: RunFilter,
  before: number | null,
  signal?: AbortSignal,
  limit = RUNS_A_PAGE,
): Promise<RunPage> => {
  // The address may hold a state or trigger that there is not: the viewer says so.
  const filter = { model, status, trigger } as unknown as { model: string };
  const page = await viewer.get("/pipeline_runs", {
    query: { ...filter, before, limit },
    ...(signal && { signal }),
  });
  return { runs: page.runs.map(asRun), next_before: page.next_before };
};

export const askRun = async (run_id: number, signal?: AbortSignal): Promise<Run> =>
  asRun(await viewer.get("/pipeline_runs/{run_id}", { path: { run_id }, ...(signal && { signal }) }));

const asRun = (answered: Schemas["Run"]): Run => answered as unknown as Run;

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
  | "epoch"
  | "epochs"
  | "train_loss"
  | "validation_loss"
  | "validation_accuracy"
  | "seconds"
  | "seconds_left"
  | "at"
  | "cpu_utilisation"
  | "process_cpu_utilisation"
  | "memory_bytes"
  | "memory_total_bytes"
  | "process_memory_bytes"
  | "gpu_utilisation"
  | "gpu_memory_bytes"
  | "gpu_memory_total_bytes"
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

export type Version = Schemas["ModelVersion"];
export type LedgerItem = GatewayComponents["schemas"]["PromotionItem"];
export type Comparison = Schemas["Comparison"];

export const VERSIONS_A_PAGE = 200;

export const askVersions = (name: string, signal?: AbortSignal, before: number | null = null) =>
  viewer.get("/models/{name}/versions", {
    path: { name },
    query: { limit: VERSIONS_A_PAGE, before },
    ...(signal && { signal }),
  });

const LEDGER_ITEMS = 500; // as many as the gateway gives

export const askLedger = async (name: string, signal?: AbortSignal): Promise<LedgerItem[]> =>
  (
    await gateway.get("/models/{name}/promotions", {
      path: { name },
      query: { limit: LEDGER_ITEMS },
      ...(signal && { signal }),
    })
  ).promotions;

export const askLive = (name: string, at: string, signal?: AbortSignal) =>
  viewer.get("/models/{name}/live", { path: { name }, query: { at }, ...(signal && { signal }) });

/** Both are asked about the same images when they have not been before: that takes a while. */
export const askComparison = (name: string, a: number, b: number, signal?: AbortSignal) =>
  viewer.get("/models/{name}/compare", {
    path: { name },
    query: { a, b },
    timeoutMs: 120_000,
    ...(signal && { signal }),
  });

export type ListedCorrection = GatewayComponents["schemas"]["CorrectionItem"];

export interface CorrectionFilter {
  model: string | null;
  status: GatewayComponents["schemas"]["CorrectionStatus"] | null;
  /** True: decided ones, the newest decision first. */
  reviewed: boolean | null;
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
    query: { ...filter, source: filter.source ? [filter.source as Source] : null, before, limit: 200 },
    ...(signal && { signal }),
  });

type Source = "correction" | "sample" | "review";

export type Decision = GatewayComponents["schemas"]["ReviewDecision"];
export type Action = Decision["action"];

export const review = (decisions: Decision[]) => gateway.post("/corrections/review", { body: { decisions } });

export const promote = (name: string, version: number, reason: string) =>
  gateway.post("/models/{name}/promote", { path: { name }, body: { version, reason } });

export type Trial = GatewayComponents["schemas"]["TrialAnswer"];
export type TrialKind = Trial["kind"];

/** Newest first, the one under way, if any, at the head; the gateway gives the last 20. */
export const askTrials = async (name: string, signal?: AbortSignal): Promise<Trial[]> =>
  (
    await gateway.get("/models/{name}/trials", {
      path: { name },
      timeoutMs: 5_000, // asked again every few seconds, and the page waits for the first
      ...(signal && { signal }),
    })
  ).trials;

/** Answers when every model server has loaded the version. */
export const startTrial = (
  name: string,
  kind: TrialKind,
  body: { version: number; percent: number; reason: string },
) => gateway.post(`/models/{name}/${kind}`, { path: { name }, body, timeoutMs: 120_000 });

/**
 * Ends what is being tried out; when nothing is, puts the previous version back.
 * version: what is taken back, refused when it is neither tried out nor live; null: what is newest.
 */
export const rollBack = (name: string, reason: string, version?: number) =>
  gateway.post("/models/{name}/rollback", { path: { name }, body: { reason, version: version ?? null } });

/** Addresses in answers begin with the root of the service that has them. */
export function shownAt(address: string): string {
  const service = /^\/?(corrections|predictions)\//.test(address) ? "api" : "runs";
  return `${service}/${address.replace(/^\//, "")}`;
}
