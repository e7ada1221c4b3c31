/** The present in milliseconds, told anew every second while `isRunning`. One clock for the whole page. */
import { useSyncExternalStore } from "react";

let now = Date.now();
let timer: ReturnType<typeof setInterval> | undefined;
const watchers = new Set<() => void>();

function watch(watcher: () => void): () => void {
  if (watchers.size === 0) {
    now = Date.now();
    timer = setInterval(() => {
      now = Date.now();
      for (const told of watchers) told();
    }, 1_000);
  }
  watchers.add(watcher);
  return () => {
    watchers.delete(watcher);
    if (watchers.size === 0) clearInterval(timer);
  };
}

const still = () => () => {};

export function useNow(isRunning: boolean): number {
  return useSyncExternalStore(isRunning ? watch : still, () => now);
}
