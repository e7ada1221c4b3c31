/** A run as pipeline/runs.py tells it, through the gateway and the viewer alike (tests/unit/test_ui.py compares). */
import type { GatewayComponents } from "./api/client.ts";

export type RunStatus =
  | "queued"
  | "running"
  | "succeeded"
  | "failed"
  | "interrupted"
  | "cancelled"
  | "halted"
  | "rejected";

export const STAGES = [
  "ingest",
  "convert",
  "merge",
  "version",
  "train",
  "evaluate",
  "register",
  "promote",
  "cleanup",
] as const;
export type StageName = (typeof STAGES)[number];

/** Times are UTC, ISO 8601. */
export interface StageOfRun {
  name: StageName;
  status: "running" | "succeeded" | "failed" | "interrupted" | "cancelled" | "halted";
  attempt: number;
  started_at: string;
  finished_at: string | null;
  duration_seconds: number | null;
  figures: Record<string, unknown>;
  message: string | null;
}

export interface Run {
  run_id: number;
  model: string;
  trigger: "manual" | "schedule" | "threshold" | "initial";
  force: boolean;
  requested_by: string;
  status: RunStatus;
  message: string | null;
  new_images: number | null;
  dataset_version: number | null;
  version: number | null;
  verdict: ({ promote: boolean; sentence: string } & Record<string, unknown>) | null;
  mlflow_run_id: string | null;
  mlflow_url: string | null;
  /** When cleanup took the version's weights away: it cannot be served again. */
  weights_removed_at: string | null;
  requested_at: string;
  started_at: string | null;
  finished_at: string | null;
  stages: StageOfRun[];
}

export const isActive = (run: Pick<Run, "status">): boolean => ["queued", "running"].includes(run.status);

/** The services' own type leaves most of a run open. */
export function asRun(answered: GatewayComponents["schemas"]["RunAnswer"]): Run {
  return answered as unknown as Run;
}

/** After an undo runs put nothing live, however good, until somebody allows it again. */
export function wasPaused(run: Run): boolean {
  return run.stages.some(({ name, figures }) => name === "promote" && figures.promoted === "paused");
}

/** The gate's sentence, and what became of it. */
export function verdictOf(run: Run): string | null {
  if (run.verdict === null) return null;
  const { sentence } = run.verdict;
  return wasPaused(run)
    ? sentence.replace("Promoted:", "Passed the gate, and not put live because promotion was paused:")
    : sentence;
}
