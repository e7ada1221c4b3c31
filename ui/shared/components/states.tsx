/** What a page shows when it has nothing, cannot, or not yet: Empty, Failed, Loading, Stale. */
import type { ReactNode } from "react";
import { ApiError } from "../api/client.ts";
import { sentence } from "../format.ts";
import { useLiveState } from "../live.ts";
import { Button } from "./Button.tsx";
import "./states.css";

/** Says what would be here, and how it comes about. */
export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="state">
      <svg viewBox="0 0 48 32" aria-hidden="true" className="state-picture">
        <path d="M4 28 24 6l20 22" />
      </svg>
      <p className="state-title">{title}</p>
      {children}
    </div>
  );
}

interface FailedProps {
  error: Error;
  /** What could not be done: "The runs could not be loaded". */
  what: string;
  retry?: (() => void) | undefined;
}

export function Failed({ error, what, retry }: FailedProps) {
  const requestId = error instanceof ApiError ? error.requestId : null;
  return (
    <div className="state state-failed" role="alert">
      <p className="state-title">{what}</p>
      <p>{sentence(error.message)}</p>
      {requestId && (
        <p className="soft small">
          In the logs under <code>{requestId}</code>
        </p>
      )}
      {retry && <Button onClick={retry}>Try again</Button>}
    </div>
  );
}

/** Grey lines where text will be. Give it as much room as what comes, so that nothing jumps. */
export function Loading({ what, lines = 3 }: { what: string; lines?: number }) {
  return (
    <div className="loading" role="status">
      <span className="aloud">Loading {what}</span>
      {Array.from({ length: lines }, (_, line) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: they are all the same
        <span key={line} className="loading-line" aria-hidden="true" />
      ))}
    </div>
  );
}

/** Says so while what is shown may be old. Its room is kept, so that nothing jumps. */
export function Stale() {
  const state = useLiveState();
  return (
    <p className="stale" role="status" data-state={state}>
      {state === "stale" && "Not live: what you see may be old. Trying to reach Emend again."}
      {state === "live" && (
        <>
          <span className="stale-dot" aria-hidden="true" /> Live
        </>
      )}
    </p>
  );
}
