import { expect, test } from "vitest";
import { type Run, type StageOfRun, verdictOf } from "../shared/runs.ts";
import type { RunFilter, RunPage } from "./data.ts";
import { allStages, epochsLeftSeconds, secondsLeft, stageSeconds, timeLeft, withRun } from "./runs.ts";

const NOW = Date.parse("2026-11-21T05:10:30Z");
const EVERY: RunFilter = { model: null, status: null, trigger: null };

function stage(name: StageOfRun["name"], status: StageOfRun["status"], seconds: number | null): StageOfRun {
  return {
    name,
    status,
    attempt: 1,
    started_at: "2026-11-21T05:10:20Z",
    finished_at: null,
    duration_seconds: seconds,
    figures: {},
    message: null,
  };
}

function run(run_id: number, more: Partial<Run> = {}): Run {
  return {
    run_id,
    model: "doodles",
    trigger: "manual",
    force: false,
    requested_by: "me",
    status: "running",
    message: null,
    new_images: null,
    dataset_version: null,
    version: null,
    verdict: null,
    mlflow_run_id: null,
    mlflow_url: null,
    weights_removed_at: null,
    requested_at: "2026-11-21T05:10:00Z",
    started_at: null,
    finished_at: null,
    stages: [],
    ...more,
  };
}

function pages(...ids: number[][]): { pages: RunPage[]; pageParams: (number | null)[] } {
  return {
    pages: ids.map((some) => ({ runs: some.map((id) => run(id)), next_before: null })),
    pageParams: ids.map(() => null),
  };
}

const idsOf = (all: ReturnType<typeof pages>) =>
  all.pages.map(({ runs }) => runs.map(({ run_id }) => run_id));

test("a new run comes first", () => {
  expect(idsOf(withRun(pages([3, 2], [1]), run(4), EVERY))).toEqual([[4, 3, 2], [1]]);
});

test("a run that is there is replaced where it stands", () => {
  const now = withRun(pages([3, 2], [1]), run(1, { status: "failed" }), EVERY);
  expect(idsOf(now)).toEqual([[3, 2], [1]]);
  expect(now.pages[1]?.runs[0]?.status).toBe("failed");
});

test("a run that fits the filter no longer goes", () => {
  const now = withRun(pages([3, 2]), run(3, { status: "failed" }), { ...EVERY, status: "running" });
  expect(idsOf(now)).toEqual([[2]]);
});

test("neither a run of another model nor an older one not loaded yet comes in", () => {
  expect(idsOf(withRun(pages([3]), run(4, { model: "photos" }), { ...EVERY, model: "doodles" }))).toEqual([
    [3],
  ]);
  expect(idsOf(withRun(pages([3]), run(2), EVERY))).toEqual([[3]]);
});

test("the first run of an empty list comes in", () => {
  expect(idsOf(withRun(pages([]), run(1), EVERY))).toEqual([[1]]);
});

test("there are always nine stages", () => {
  const all = allStages(run(1, { stages: [stage("ingest", "succeeded", 0.4)] }));
  expect(all).toHaveLength(9);
  expect(all.map(({ stage }) => stage?.status ?? null).slice(0, 2)).toEqual(["succeeded", null]);
});

test("a running stage counts from its start, one that never ended does not", () => {
  expect(stageSeconds(stage("train", "running", null), NOW)).toBe(10);
  expect(stageSeconds(stage("train", "interrupted", null), NOW)).toBeNull();
});

const ESTIMATE = { seconds: 30, runs: 4, stages: { ingest: 1, train: 25, evaluate: 4 } };

test("time left: the rest of the running stage and all of those to come", () => {
  const active = run(1, { stages: [stage("ingest", "succeeded", 0.4), stage("train", "running", null)] });
  expect(secondsLeft(active, ESTIMATE, NOW)).toBe(15 + 4);
});

test("time left: what training says of itself is better than the median", () => {
  const active = run(1, { stages: [stage("train", "running", null)] });
  expect(secondsLeft(active, ESTIMATE, NOW, 6)).toBe(1 + 6 + 4);
});

test("time left: a stage that takes longer than ever has nothing left, not less", () => {
  const active = run(1, { stages: [stage("ingest", "running", null)] });
  expect(secondsLeft(active, ESTIMATE, NOW)).toBe(29);
});

test("time left: unknown without a run before, and for a run that has ended", () => {
  expect(secondsLeft(run(1), null, NOW)).toBeNull();
  expect(secondsLeft(run(1, { status: "failed" }), ESTIMATE, NOW)).toBeNull();
});

test("time left is told roughly, and a stage that takes much longer than it did says so", () => {
  const training = run(1, { stages: [stage("train", "running", null)] });
  expect(timeLeft(training, ESTIMATE, NOW)).toBe("about 20 s left");
  expect(timeLeft(training, ESTIMATE, NOW + 55_000)).toBe("longer than usual");
  expect(timeLeft(training, ESTIMATE, NOW + 55_000, 3)).toBe("about 8 s left");
  expect(timeLeft(training, null, NOW)).toBe("how long it takes is not known");
});

const TRAINING = stage("train", "running", null);
const over = (seconds: number) => new Date(NOW - 1000 * seconds).toISOString();

test("epochs to come take what those before took, where training does not say it itself", () => {
  const epochs = [
    { epoch: 1, epochs: 4, seconds: 2 },
    { epoch: 2, epochs: 4, seconds: 4 },
  ];
  expect(epochsLeftSeconds(epochs, TRAINING, NOW)).toBe(6);
  expect(epochsLeftSeconds([], TRAINING, NOW)).toBeNull();
});

test("training's time left runs down between epochs, and an epoch that takes long takes none from the next", () => {
  const at = (seconds: number) =>
    epochsLeftSeconds([{ epoch: 2, epochs: 4, seconds_left: 8, at: over(seconds) }], TRAINING, NOW);
  expect([at(-1), at(0), at(3), at(4), at(9)]).toEqual([8, 8, 5, 4, 4]);
});

test("no time is left after the last epoch, nor told when training is not at work", () => {
  const last = [{ epoch: 4, epochs: 4, seconds_left: 0, at: over(1) }];
  expect(epochsLeftSeconds(last, TRAINING, NOW)).toBe(0);
  const third = [{ epoch: 3, epochs: 4, seconds_left: 5, at: over(1) }];
  for (const status of ["succeeded", "failed", "interrupted"] as const)
    expect(epochsLeftSeconds(third, stage("train", status, 9), NOW)).toBeNull();
  expect(epochsLeftSeconds(third, undefined, NOW)).toBeNull();
});

test("after a resume the time counts from when the stage began again", () => {
  const anHourAgo = [{ epoch: 2, epochs: 4, seconds_left: 50, at: over(3600) }];
  expect(epochsLeftSeconds(anHourAgo, TRAINING, NOW)).toBe(40); // TRAINING began 10 s ago
});

test("what passed while promotion was paused is not said to be promoted", () => {
  const verdict = { promote: true, promoted: true, sentence: "Promoted: better." };
  const promote = {
    name: "promote",
    status: "succeeded",
    figures: { promoted: "paused" },
  } as unknown as StageOfRun;
  expect(verdictOf(run(1, { verdict }))).toBe("Promoted: better.");
  expect(verdictOf(run(1, { verdict, stages: [promote] }))).toBe(
    "Passed the gate, and not put live because promotion was paused: better.",
  );
});
