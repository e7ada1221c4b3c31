/** The list of runs and how it stays true: every transition that comes asks for that run alone and puts it in its place. */
import { type InfiniteData, useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useMemo, useRef } from "react";
import { duration } from "../shared/format.ts";
import { useLive } from "../shared/live.ts";
import { isActive, type Run, STAGES, type StageName, type StageOfRun } from "../shared/runs.ts";
import {
  askOverview,
  askRun,
  askRuns,
  type Epoch,
  type RunEstimate,
  type RunFilter,
  type RunPage,
} from "./data.ts";

const GATHERED_MS = 200; // transitions come in bursts: one question for all of a run's
const OVERVIEW_MS = 10_000; // corrections come in without a transition

type Pages = InfiniteData<RunPage, number | null>;

export function fits(run: Run, filter: RunFilter): boolean {
  return (
    (filter.model === null || run.model === filter.model) &&
    (filter.status === null || run.status === filter.status) &&
    (filter.trigger === null || run.trigger === filter.trigger)
  );
}

/** The pages with `run` as it is now: replaced, put at the head when it is new, taken out when it fits no longer. */
export function withRun(pages: Pages, run: Run, filter: RunFilter): Pages {
  const [first, ...rest] = pages.pages;
  if (first === undefined) return pages;
  const isThere = pages.pages.some(({ runs }) => runs.some(({ run_id }) => run_id === run.run_id));
  const newest = first.runs[0]?.run_id ?? 0;
  if (!isThere && fits(run, filter) && run.run_id > newest) {
    return { ...pages, pages: [{ ...first, runs: [run, ...first.runs] }, ...rest] };
  }
  if (!isThere) return pages;
  return {
    ...pages,
    pages: pages.pages.map((page) => ({
      ...page,
      runs: page.runs.flatMap((old) => {
        if (old.run_id !== run.run_id) return [old];
        return fits(run, filter) ? [run] : [];
      }),
    })),
  };
}

export function useRuns(filter: RunFilter) {
  const { model, status, trigger } = filter;
  const asked = useMemo(() => ({ model, status, trigger }), [model, status, trigger]);
  const key = useMemo(() => ["runs", "list", asked], [asked]);
  const queries = useQueryClient();
  const query = useInfiniteQuery({
    queryKey: key,
    queryFn: ({ pageParam, signal }) => askRuns(asked, pageParam, signal),
    initialPageParam: null as number | null,
    getNextPageParam: (page) => page.next_before,
  });
  useTouched(async (ids) => {
    const runs = await Promise.all(ids.map((id) => askRun(id)));
    queries.setQueryData<Pages>(key, (pages) =>
      pages ? runs.reduce((now, run) => withRun(now, run, asked), pages) : pages,
    );
  });
  const runs = useMemo(() => query.data?.pages.flatMap((page) => page.runs) ?? [], [query.data]);
  return { query, runs };
}

/** Calls `take` with the runs that something happened to, a moment after it did. */
function useTouched(take: (ids: number[]) => Promise<void>): void {
  const touched = useRef(new Set<number>());
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const newest = useRef(take);
  useEffect(() => {
    newest.current = take;
  });
  useEffect(() => () => clearTimeout(timer.current), []);
  useLive(({ run_id, status }) => {
    if (status === "epoch") return;
    touched.current.add(run_id);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      const ids = [...touched.current];
      touched.current.clear();
      newest.current(ids).catch(() => {
        for (const id of ids) touched.current.add(id); // with the next transition
      });
    }, GATHERED_MS);
  });
}

export function useOverview() {
  const queries = useQueryClient();
  useTouched(() => queries.invalidateQueries({ queryKey: ["overview"] }));
  return useQuery({
    queryKey: ["overview"],
    queryFn: ({ signal }) => askOverview(signal),
    refetchInterval: OVERVIEW_MS,
  });
}

/** All nine, those that have not begun as null. */
export function allStages(run: Run): { name: StageName; stage: StageOfRun | null }[] {
  return STAGES.map((name) => ({ name, stage: run.stages.find((stage) => stage.name === name) ?? null }));
}

/** For as long as it has been at work, or was. */
export function stageSeconds(stage: StageOfRun, now: number): number | null {
  if (stage.duration_seconds !== null) return stage.duration_seconds;
  if (stage.status !== "running") return null;
  return Math.max(0, (now - Date.parse(stage.started_at)) / 1000);
}

/**
 * How long an active run still takes, from the medians of runs before it; null when nothing is known.
 * trainSeconds: what training itself says, from its epochs so far; better than the median.
 */
export function secondsLeft(
  run: Run,
  estimate: RunEstimate | null,
  now: number,
  trainSeconds: number | null = null,
): number | null {
  if (!isActive(run) || estimate === null) return null;
  let left = 0;
  for (const { name, stage } of allStages(run)) {
    if (stage !== null && stage.status !== "running") continue;
    const whole = estimate.stages[name] ?? 0;
    if (name === "train" && trainSeconds !== null && stage !== null) left += trainSeconds;
    else left += Math.max(0, whole - (stage === null ? 0 : (stageSeconds(stage, now) ?? 0)));
  }
  return left;
}

/** "about 40 s left"; a stage that takes much longer than it usually does says so. */
export function timeLeft(
  run: Run,
  estimate: RunEstimate | null,
  now: number,
  trainSeconds: number | null = null,
): string {
  const left = secondsLeft(run, estimate, now, trainSeconds);
  if (left === null) return "how long it takes is not known";
  const stage = run.stages.find(({ status }) => status === "running");
  const usual = stage && (stage.name !== "train" || trainSeconds === null) && estimate?.stages[stage.name];
  if (usual && (stageSeconds(stage, now) ?? 0) > 2 * usual + 10) return "longer than usual";
  return left < 1 ? "done in a moment" : `about ${roughly(left)} left`;
}

/** Without a fraction: nobody knows it so well. */
export function roughly(seconds: number): string {
  return seconds < 9.95 ? `${Math.max(1, Math.round(seconds))} s` : duration(seconds);
}

/**
 * Seconds until training's last epoch is over: what the newest one said, less the time since; null before the first and
 * while training is not at work. After a resume the time counts from when the stage began again. An epoch that takes
 * longer than those before it takes nothing from those after it.
 */
export function epochsLeftSeconds(
  epochs: readonly Pick<Epoch, "epoch" | "epochs" | "seconds" | "seconds_left" | "at">[],
  train: Pick<StageOfRun, "status" | "started_at"> | undefined,
  now: number,
): number | null {
  const last = epochs.at(-1);
  if (train?.status !== "running" || !last?.epochs) return null;
  const toCome = last.epochs - last.epoch;
  if (toCome <= 0) return 0;
  const whole = last.seconds_left ?? secondsOf(epochs, toCome);
  if (whole === null) return null;
  const since = last.at ? Math.max(Date.parse(last.at), Date.parse(train.started_at)) : now;
  const elapsed = Math.max(0, (now - since) / 1000);
  return Math.max((whole * (toCome - 1)) / toCome, whole - elapsed);
}

/** So many epochs, at the pace of those done. */
function secondsOf(epochs: readonly Pick<Epoch, "seconds">[], count: number): number | null {
  const timed = epochs.flatMap(({ seconds }) => (typeof seconds === "number" ? [seconds] : []));
  if (timed.length === 0) return null;
  return (count * timed.reduce((sum, seconds) => sum + seconds, 0)) / timed.length;
}

/** One word a state where there is room for no more; StatusMark has the whole one. */
export const SHORT: Record<string, string> = {
  succeeded: "done",
  running: "running",
  failed: "failed",
  interrupted: "stopped",
  cancelled: "cancelled",
  halted: "too little",
};

export const TRIGGERS: Record<Run["trigger"], string> = {
  manual: "By hand",
  schedule: "By schedule",
  threshold: "By threshold",
  initial: "First start",
};
