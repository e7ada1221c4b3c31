/** A stage's log, live: follow, search, copy, download. Only the lines in sight are in the page. */
import { useVirtualizer } from "@tanstack/react-virtual";
import { useDeferredValue, useEffect, useId, useMemo, useRef, useState } from "react";
import { viewer } from "../../shared/api/client.ts";
import { Button } from "../../shared/components/Button.tsx";
import { Failed, Loading } from "../../shared/components/states.tsx";
import { say } from "../../shared/components/Toasts.tsx";
import { counted, sentence } from "../../shared/format.ts";
import { LogText, type Span } from "../log.ts";
import "./Log.css";

const LINES = 100_000; // of a longer log the last ones
const LINE_PX = 20; // Log.css
const SHOWN_MS = 60; // lines that come within this are shown at once
const RETRY_MS = 1_500;

interface Props {
  runId: number;
  stage: string;
  isRunning: boolean;
}

interface Reading {
  text: LogText;
  /** Grows with every piece: LogText itself stays the same object. */
  pieces: number;
  state: "opening" | "open" | "ended" | "gone";
  error: Error | null;
}

const OPENING = (): Reading => ({ text: new LogText(), pieces: 0, state: "opening", error: null });

/** Reads while the stage runs, and to its end; begins anew when the line breaks. */
function useLog({ runId, stage, isRunning }: Props): Reading & { again: () => void } {
  const [reading, setReading] = useState(OPENING);
  const [tries, setTries] = useState(0);
  const running = useRef(isRunning);
  running.current = isRunning;
  // biome-ignore lint/correctness/useExhaustiveDependencies: another try is another reading
  useEffect(() => {
    const ended = new AbortController();
    const text = new LogText();
    let pieces = 0;
    let waiting: ReturnType<typeof setTimeout> | undefined;
    const show = (state: Reading["state"], error: Error | null = null) => {
      clearTimeout(waiting);
      waiting = undefined;
      if (!ended.signal.aborted) setReading({ text, pieces, state, error });
    };
    const read = async () => {
      const address = viewer.url("/pipeline_runs/{run_id}/stages/{stage}/log", {
        path: { run_id: runId, stage },
        query: { follow: true, tail: LINES },
      });
      const response = await fetch(address, { signal: ended.signal, cache: "no-store" });
      if (response.status === 404) {
        const body = (await response.json()) as { error?: { message?: string } };
        show("gone", new Error(body.error?.message ?? "It is not there."));
        return;
      }
      if (!response.ok || response.body === null) throw new Error(`status ${response.status}`);
      const decoder = new TextDecoder();
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text.append(decoder.decode(value, { stream: true }));
        pieces++;
        waiting ??= setTimeout(() => show("open"), SHOWN_MS);
      }
      show("ended");
    };
    read().catch(() => {
      if (ended.signal.aborted) return;
      show("ended", new Error("The line to the log broke."));
      if (running.current) setTimeout(() => !ended.signal.aborted && setTries((n) => n + 1), RETRY_MS);
    });
    return () => {
      ended.abort();
      clearTimeout(waiting);
    };
  }, [runId, stage, tries]);
  return {
    ...reading,
    again: () => {
      setReading(OPENING());
      setTries((n) => n + 1);
    },
  };
}

export function Log(props: Props) {
  const { runId, stage, isRunning } = props;
  const { text, pieces, state, error, again } = useLog(props);
  const [isFollowing, setFollowing] = useState(true);
  const [wanted, setWanted] = useState("");
  const [at, setAt] = useState(0);
  const searched = useDeferredValue(wanted);
  // biome-ignore lint/correctness/useExhaustiveDependencies: pieces says that the text grew
  const found = useMemo(() => text.find(searched), [text, searched, pieces]);
  const current = found[Math.min(at, found.length - 1)];
  const pane = useRef<HTMLElement>(null);
  const id = useId();
  const virtual = useVirtualizer({
    count: text.length,
    getScrollElement: () => pane.current,
    estimateSize: () => LINE_PX,
    overscan: 20,
  });
  const height = virtual.getTotalSize();
  // biome-ignore lint/correctness/useExhaustiveDependencies: pieces says that the text grew, height that there is room
  useEffect(() => {
    if (!isFollowing || text.length === 0) return;
    const toEnd = () => pane.current?.scrollTo({ top: pane.current.scrollHeight });
    toEnd();
    const frame = requestAnimationFrame(toEnd); // the room for many lines at once may come a moment after them
    return () => cancelAnimationFrame(frame);
  }, [pieces, isFollowing, text, height]);
  useEffect(() => {
    if (current === undefined) return;
    setFollowing(false);
    virtual.scrollToIndex(current, { align: "center" });
  }, [current, virtual]);
  const step = (by: number) => found.length > 0 && setAt((at + by + found.length) % found.length);
  const address = viewer.url("/pipeline_runs/{run_id}/stages/{stage}/log", {
    path: { run_id: runId, stage },
  });

  return (
    <section className="log" aria-label={`Log of stage ${stage}`} data-gone={state === "gone" || undefined}>
      <div className="log-bar">
        <label className="log-follow">
          <input
            type="checkbox"
            checked={isFollowing}
            onChange={(event) => setFollowing(event.target.checked)}
          />
          Follow
        </label>
        <search className="log-search">
          <label className="aloud" htmlFor={id}>
            Search the log
          </label>
          <input
            id={id}
            type="search"
            placeholder="Search"
            value={wanted}
            onChange={(event) => {
              setWanted(event.target.value);
              setAt(0);
            }}
            onKeyDown={(event) => {
              if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
            }}
          />
          <span className="log-found small soft number" role="status">
            {searched === ""
              ? ""
              : found.length === 0
                ? "nothing found"
                : `${Math.min(at, found.length - 1) + 1} of ${counted(found.length, "line")}`}
          </span>
          {found.length > 1 && (
            <>
              <Button kind="quiet" aria-label="Line found before" onClick={() => step(-1)}>
                ↑
              </Button>
              <Button kind="quiet" aria-label="Next line found" onClick={() => step(1)}>
                ↓
              </Button>
            </>
          )}
        </search>
        <span className="log-tools">
          <Button kind="quiet" onClick={() => void copy(String(text))}>
            Copy
          </Button>
          <a className="button button-quiet" href={address} download={`run-${runId}-${stage}.log`}>
            Download
          </a>
        </span>
      </div>
      {/* A region that scrolls has to be reachable with the keyboard. */}
      <section
        ref={pane}
        className="log-pane"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: see above
        tabIndex={0}
        aria-label={`Lines of stage ${stage}`}
        onWheel={(event) => {
          if (event.deltaY < 0) setFollowing(false);
        }}
        onKeyDown={(event) => {
          if (["ArrowUp", "PageUp", "Home"].includes(event.key)) setFollowing(false);
          if (event.key === "End") setFollowing(true);
        }}
      >
        {state === "gone" && (
          <p className="log-none">{sentence(error?.message ?? "It is not there any more")}</p>
        )}
        {state === "opening" && text.length === 0 && <Loading what="the log" lines={5} />}
        {state === "ended" && error && text.length === 0 && (
          <Failed what="The log could not be read" error={error} retry={again} />
        )}
        {text.length === 0 && state !== "gone" && state !== "opening" && !error && (
          <p className="log-none">{isRunning ? "Nothing printed yet." : "It printed nothing."}</p>
        )}
        <div className="log-lines" style={{ height }}>
          {virtual.getVirtualItems().map(({ index, start }) => (
            <div
              key={index}
              className="log-line"
              data-found={(searched !== "" && index === current) || undefined}
              style={{ transform: `translateY(${start}px)` }}
            >
              <span className="log-number" aria-hidden="true" data-number={index + 1} />
              {text.spans(index).map((span, nth) => (
                // biome-ignore lint/suspicious/noArrayIndexKey: spans of a line do not move
                <Words key={nth} span={span} wanted={searched} />
              ))}
            </div>
          ))}
        </div>
      </section>
      <p className="log-foot small soft">
        {state !== "gone" && counted(text.length, "line")}
        {state === "open" && isRunning && ", live"}
        {text.length >= LINES && "; “Download” has the earlier ones too"}
        {error && text.length > 0 && (isRunning ? "; the line broke and is tried again" : "; the line broke")}
      </p>
    </section>
  );
}

function Words({ span, wanted }: { span: Span; wanted: string }) {
  const { text, colour, ground, bold, dim, italic, underline } = span;
  const marked = wanted === "" ? text : withMarks(text, wanted);
  const classes = [
    colour && `log-${colour}`,
    ground && `log-on-${ground}`,
    bold && "log-bold",
    dim && "log-dim",
    italic && "log-italic",
    underline && "log-underline",
  ].filter(Boolean);
  return classes.length === 0 ? marked : <span className={classes.join(" ")}>{marked}</span>;
}

function withMarks(text: string, wanted: string) {
  const parts: React.ReactNode[] = [];
  const low = text.toLowerCase();
  const needle = wanted.toLowerCase();
  let from = 0;
  for (let at = low.indexOf(needle); at >= 0; at = low.indexOf(needle, from)) {
    parts.push(text.slice(from, at), <mark key={at}>{text.slice(at, at + needle.length)}</mark>);
    from = at + needle.length;
  }
  parts.push(text.slice(from));
  return parts;
}

async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text); // only on this machine or over HTTPS
    say("The log is copied");
  } catch {
    say("The browser does not let this page copy; use Download", "bad");
  }
}
