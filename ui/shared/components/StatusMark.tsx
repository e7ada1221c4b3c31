/**
 * A state as icon, colour and word, so that it is told by any one of them.
 *
 *   <StatusMark status="quarantined" />     <StatusMark status="running" hideWord />   (the word is then read aloud)
 */
import "./StatusMark.css";

type Tone = "good" | "bad" | "warn" | "busy" | "idle";
type Icon = "check" | "cross" | "clock" | "spin" | "stop" | "pause" | "no" | "question" | "dot";

/** Of runs, stages, corrections, categories and versions: every state that a service answers. */
export const STATUSES = {
  queued: ["idle", "clock", "Queued"],
  waiting: ["idle", "dot", "Not begun"],
  running: ["busy", "spin", "Running"],
  succeeded: ["good", "check", "Succeeded"],
  failed: ["bad", "cross", "Failed"],
  interrupted: ["warn", "pause", "Interrupted"],
  cancelled: ["idle", "stop", "Cancelled"],
  halted: ["warn", "pause", "Too little new"],
  rejected: ["bad", "no", "Not promoted"],
  skipped: ["idle", "dot", "Not needed"],

  received: ["idle", "clock", "Received"],
  accepted: ["busy", "clock", "Waits for a run"],
  quarantined: ["warn", "pause", "Set aside"],
  merged: ["good", "check", "In the dataset"],
  exam: ["good", "question", "Exam question"],
  superseded: ["idle", "dot", "Not used"],
  withdrawn: ["idle", "stop", "Taken back"],

  right: ["good", "check", "Now right"],
  wrong: ["bad", "cross", "Still wrong"],

  pending: ["idle", "clock", "Too few images"],
  active: ["good", "check", "Active"],
  retired: ["idle", "stop", "Retired"],

  live: ["good", "dot", "Live"],
  previous: ["idle", "clock", "Previous"],
  challenger: ["busy", "question", "Challenger"],
  done: ["good", "check", "Done"],
  open: ["busy", "spin", "Under way"],
  reverted: ["warn", "stop", "Taken back"],
} as const satisfies Record<string, readonly [Tone, Icon, string]>;

export type Status = keyof typeof STATUSES;

interface Props {
  /** One the page does not know yet is shown as it is. */
  status: Status | (string & {});
  /** Other words for it. */
  word?: string;
  hideWord?: boolean;
}

export function StatusMark({ status, word, hideWord = false }: Props) {
  const [tone, icon, usual] = Object.hasOwn(STATUSES, status)
    ? STATUSES[status as Status]
    : (["idle", "dot", status] as const);
  return (
    <span className={`status status-${tone}`} title={hideWord ? (word ?? usual) : undefined}>
      <svg viewBox="0 0 16 16" aria-hidden="true" className={icon === "spin" ? "status-spin" : undefined}>
        {ICONS[icon]}
      </svg>
      <span className={hideWord ? "aloud" : undefined}>{word ?? usual}</span>
    </span>
  );
}

const ring = <circle cx="8" cy="8" r="6.2" />;
const ICONS: Record<Icon, React.ReactNode> = {
  check: <path d="M3 8.5 6.5 12 13 4.5" />,
  cross: <path d="m4 4 8 8m0-8-8 8" />,
  clock: (
    <>
      {ring}
      <path d="M8 4.5V8l2.5 1.7" />
    </>
  ),
  spin: <path d="M8 1.8A6.2 6.2 0 1 1 1.8 8" />,
  stop: <rect x="3.5" y="3.5" width="9" height="9" rx="1" />,
  pause: <path d="M5.5 3.5v9m5-9v9" />,
  no: (
    <>
      {ring}
      <path d="m3.7 3.7 8.6 8.6" />
    </>
  ),
  question: <path d="M5.2 5.6a2.8 2.8 0 1 1 4.1 2.5c-.9.5-1.3.9-1.3 1.9m0 2.4v.2" />,
  dot: <circle cx="8" cy="8" r="3" className="status-full" />,
};
