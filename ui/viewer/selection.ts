/**
 * Which images of a grid are chosen, and where the keyboard stands: pure steps from one state to the next.
 *
 *   move(state, ids, "ArrowDown", { columns: 6, extend: false })
 */

export interface Selection {
  chosen: ReadonlySet<string>;
  /** Where the keyboard stands; null: at the first. */
  at: string | null;
  /** Where a range began. */
  from: string | null;
}

export const NOTHING: Selection = { chosen: new Set(), at: null, from: null };

const STEPS: Record<string, (columns: number) => number> = {
  ArrowLeft: () => -1,
  ArrowRight: () => 1,
  ArrowUp: (columns) => -columns,
  ArrowDown: (columns) => columns,
  PageUp: (columns) => -4 * columns,
  PageDown: (columns) => 4 * columns,
};

export function indexOf(state: Selection, ids: readonly string[]): number {
  return state.at === null ? 0 : Math.max(0, ids.indexOf(state.at));
}

/** Null: the key moves nothing. */
export function move(
  state: Selection,
  ids: readonly string[],
  key: string,
  { columns, extend }: { columns: number; extend: boolean },
): Selection | null {
  const last = ids.length - 1;
  if (last < 0) return null;
  const now = indexOf(state, ids);
  const step = STEPS[key]?.(columns);
  let next = now;
  if (key === "Home") next = 0;
  else if (key === "End") next = last;
  else if (step === undefined) return null;
  else if (now + step >= 0) next = Math.min(now + step, last);
  const at = ids[next] ?? null;
  return extend ? range(state, ids, at) : { ...state, at, from: at };
}

/** Everything from where the range began to `to`, besides what is chosen already. */
export function range(state: Selection, ids: readonly string[], to: string | null): Selection {
  if (to === null) return state;
  const from = state.from ?? state.at ?? to;
  const [a, b] = [ids.indexOf(from), ids.indexOf(to)].sort((x, y) => x - y) as [number, number];
  return { chosen: new Set([...state.chosen, ...ids.slice(Math.max(a, 0), b + 1)]), at: to, from };
}

export function toggled(state: Selection, id: string): Selection {
  const chosen = new Set(state.chosen);
  if (!chosen.delete(id)) chosen.add(id);
  return { chosen, at: id, from: id };
}

/** The chosen ones; none is chosen: the one where the keyboard stands. In the order of the grid. */
export function meant(state: Selection, ids: readonly string[]): string[] {
  if (state.chosen.size > 0) return ids.filter((id) => state.chosen.has(id));
  return state.at !== null && ids.includes(state.at) ? [state.at] : [];
}

/** After some are gone: none of them is chosen, and the keyboard stands at the next one that is left. */
export function without(state: Selection, ids: readonly string[], gone: ReadonlySet<string>): Selection {
  const now = indexOf(state, ids);
  const left = (id: string) => !gone.has(id);
  const at = ids.slice(now).find(left) ?? ids.slice(0, now).findLast(left) ?? null;
  return { chosen: new Set([...state.chosen].filter(left)), at, from: at };
}
