/**
 * Short notices at the bottom, read aloud. One <Toasts> stands in the Shell; from anywhere:
 *
 *   say("Correction kept");    say("It was not sent", "bad");
 */
import { useSyncExternalStore } from "react";
import "./Toasts.css";

export const SHOWN_MS = 6_000;

interface Toast {
  id: number;
  text: string;
  tone: "good" | "bad";
}

let toasts: readonly Toast[] = [];
let nextId = 1;
const watchers = new Set<() => void>();

function change(next: readonly Toast[]): void {
  toasts = next;
  for (const watcher of watchers) watcher();
}

/** Bad news stays until it is closed. */
export function say(text: string, tone: "good" | "bad" = "good"): void {
  const id = nextId++;
  change([...toasts.filter((toast) => toast.text !== text), { id, text, tone }]);
  if (tone === "good") setTimeout(() => close(id), SHOWN_MS);
}

function close(id: number): void {
  change(toasts.filter((toast) => toast.id !== id));
}

function watch(watcher: () => void): () => void {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

export function Toasts() {
  const shown = useSyncExternalStore(watch, () => toasts);
  return (
    <section className="toasts" aria-label="Notices" aria-live="polite">
      {shown.map(({ id, text, tone }) => (
        <div key={id} className={`toast toast-${tone}`}>
          <span>{text}</span>
          <button type="button" onClick={() => close(id)} aria-label="Close this notice">
            ×
          </button>
        </div>
      ))}
    </section>
  );
}
