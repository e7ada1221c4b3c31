/** Versions tried out beside the live one: `useTrials`, and in words what their figures mean. */
import { useQuery } from "@tanstack/react-query";
import { ApiError } from "../shared/api/client.ts";
import { count } from "../shared/format.ts";
import { askTrials, rollBack, type Trial } from "./data.ts";

const OPEN_MS = 3_000; // gateways write what they counted every second
const IDLE_MS = 10_000; // one may be started from a shell

// A canary's bounds, as core/trials.py has them (tests/unit/test_ui.py compares).
export const MOST_EXCESS_ERRORS = 0.02;
export const FEWEST_ERRORS = 5;
export const MOST_TIMES_AS_SLOW = 2;
export const SLOWER_BY_MS = 10;
export const FEWEST_LATENCIES = 200;
const LONGEST_BOUND_MS = 10_000; // beyond it, how long is not known
const NEAR = 0.5; // of the way to a bound

export function useTrials(model: string) {
  return useQuery({
    queryKey: ["trials", model],
    queryFn: ({ signal }) => askTrials(model, signal),
    refetchInterval: ({ state }) => (underWay(state.data) ? OPEN_MS : IDLE_MS),
  });
}

export function underWay(trials: readonly Trial[] | undefined): Trial | null {
  return trials?.find(({ ended_at }) => ended_at === null) ?? null;
}

/** Ends that one, and says so; nothing else, when it went back by itself meanwhile. Other refusals are thrown. */
export async function endTrial({ model, kind, version }: Trial, reason: string): Promise<string> {
  try {
    return rolledBack(await rollBack(model, reason, version));
  } catch (failed) {
    if (!(failed instanceof ApiError) || failed.code !== "conflict") throw failed;
    return `The ${kind} of version ${version} had ended already; nothing was changed`;
  }
}

export function rolledBack({
  ended_trial,
  version,
  replaced_version,
}: Awaited<ReturnType<typeof rollBack>>): string {
  if (!ended_trial) return `Version ${version} is live again`;
  return `The ${ended_trial} of version ${replaced_version} has ended; version ${version} stays live`;
}

export interface Bearing {
  tone: "early" | "fine" | "near" | "beyond";
  words: string;
}

/** Where its latest figures are between fine and a canary's bounds. */
export function bearing(trial: Trial): Bearing {
  const { champion, kind, latest } = trial;
  const { images, errors, champion_errors } = latest;
  const isCanary = kind === "canary";
  if (images === 0) return { tone: "early", words: "No image has been compared yet." };
  const excess = (errors - champion_errors) / images;
  const failed = `${count(errors)} of its latest ${count(images)} answers failed, and ${count(champion_errors)} of version ${champion}’s`;
  const compared = images - Math.max(errors, champion_errors);
  const own = latest.p95_ms ?? 0;
  const champions = latest.champion_p95_ms ?? 0;
  const most = MOST_TIMES_AS_SLOW * champions + SLOWER_BY_MS;
  const canTellSlow = compared >= FEWEST_LATENCIES;
  const slow = `95 of 100 of its latest answers came within ${milliseconds(own)}, of version ${champion}’s within ${milliseconds(champions)}`;
  if (errors >= FEWEST_ERRORS && excess > MOST_EXCESS_ERRORS) return beyond(failed, isCanary);
  if (canTellSlow && own > most) return beyond(slow, isCanary);
  if (errors >= NEAR * FEWEST_ERRORS && excess > NEAR * MOST_EXCESS_ERRORS)
    return near(
      failed,
      `${100 * MOST_EXCESS_ERRORS}\u00a0% more failed answers than the live version’s`,
      isCanary,
    );
  if (canTellSlow && own > champions + NEAR * (most - champions))
    return near(slow, `more than ${milliseconds(most)}`, isCanary);
  if (!canTellSlow)
    return {
      tone: "early",
      words: `${errors === 0 ? "No answer failed" : failed}. How fast it is can be told from ${FEWEST_LATENCIES} images on; ${count(compared)} so far.`,
    };
  const words = "Its answers fail hardly more often than the live version’s, and are hardly slower.";
  return { tone: "fine", words };
}

function beyond(why: string, isCanary: boolean): Bearing {
  const then = isCanary ? "It goes back by itself in a moment" : "A canary would go back by itself";
  return { tone: "beyond", words: `${then}: ${why}.` };
}

function near(why: string, bound: string, isCanary: boolean): Bearing {
  const then = isCanary ? "it goes back by itself" : "a canary would go back by itself";
  return { tone: "near", words: `${why.charAt(0).toUpperCase()}${why.slice(1)}. At ${bound} ${then}.` };
}

/** Counted in steps: the upper end of one. */
export function milliseconds(ms: number): string {
  if (ms > LONGEST_BOUND_MS) return "more than 10\u00a0s";
  return ms >= 1000 ? `${(ms / 1000).toFixed(1)}\u00a0s` : `${ms}\u00a0ms`;
}
