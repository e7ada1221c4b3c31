/**
 * Addresses live after the `#`: `#/history?model=photos`. The page itself may then be served under any prefix.
 *
 *   <Router hook={useHashPath} searchHook={useHashSearch}>
 *   const [model, setModel] = useParameter("model");
 */
import { useCallback, useSyncExternalStore } from "react";
import type { BaseLocationHook, BaseSearchHook } from "wouter";

interface Going {
  /** Do not make an entry in the browser's history. */
  replace?: boolean;
}

function subscribe(told: () => void): () => void {
  addEventListener("hashchange", told);
  return () => removeEventListener("hashchange", told);
}

function parts(): [path: string, search: string] {
  const [path = "", search = ""] = location.hash.replace(/^#?\/?/, "").split("?");
  return [`/${path}`, search];
}

export function navigate(to: string, { replace = false }: Going = {}): void {
  const href = `#${to.startsWith("/") ? to : `/${to}`}`;
  const old = location.href;
  history[replace ? "replaceState" : "pushState"](null, "", href);
  dispatchEvent(new HashChangeEvent("hashchange", { oldURL: old, newURL: location.href }));
}

const path = () => parts()[0];
const search = () => parts()[1];

export const useHashPath: BaseLocationHook = Object.assign(
  (): [string, typeof navigate] => [useSyncExternalStore(subscribe, path), navigate],
  { hrefs: (href: string) => `#${href}` },
);

export const useHashSearch: BaseSearchHook = () => useSyncExternalStore(subscribe, search);

/** One parameter of the address; null takes it out. Changing it makes no entry in the browser's history. */
export function useParameter(name: string): [string | null, (value: string | null) => void] {
  const value = new URLSearchParams(useHashSearch()).get(name);
  const change = useCallback(
    (next: string | null) => {
      const [at, old] = parts();
      const all = new URLSearchParams(old);
      if (next === null) all.delete(name);
      else all.set(name, next);
      navigate(all.size > 0 ? `${at}?${all}` : at, { replace: true });
    },
    [name],
  );
  return [value, change];
}

/** `path` with those parameters of the present address that hold everywhere (the model). */
export function withKept(to: string, kept: readonly string[] = ["model"]): string {
  const [target = "", own = ""] = to.split("?");
  const all = new URLSearchParams(own);
  const now = new URLSearchParams(search());
  for (const name of kept) {
    const value = now.get(name);
    if (value !== null && !all.has(name)) all.set(name, value);
  }
  return all.size > 0 ? `${target}?${all}` : target;
}
