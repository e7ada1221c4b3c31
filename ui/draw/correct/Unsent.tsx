/** At the window's foot while something waits to be sent, or was refused: nothing of the page moves for it. */
import { useEffect, useState } from "react";
import { Button } from "../../shared/components/Button.tsx";
import { counted, sentence } from "../../shared/format.ts";
import { outbox, useOutbox } from "./outbox.ts";
import "./Unsent.css";

export function Unsent() {
  const { waiting, refused, isAway, nextTryAt } = useOutbox();
  const seconds = useSecondsTo(nextTryAt);
  const [first] = refused;
  if (first === undefined && !(isAway && waiting.length > 0)) return null;
  return (
    <section className="unsent" aria-label="Not sent yet" role="status">
      {isAway && waiting.length > 0 && (
        <div className="unsent-line">
          <p>
            <b>{counted(waiting.length, "correction")}</b> {waiting.length === 1 ? "waits" : "wait"} to be
            sent: Emend cannot take {waiting.length === 1 ? "it" : "them"} right now. Safe in this browser.
            <span className="soft number" aria-hidden="true">
              {" "}
              Next try in {seconds} s.
            </span>
          </p>
          <Button onClick={() => outbox.tryNow()}>Try now</Button>
        </div>
      )}
      {first && (
        <div className="unsent-line">
          <p>
            <b>“{first.statement.label}” was not accepted.</b> {sentence(first.error.message)}
            {refused.length > 1 && ` And ${refused.length - 1} more.`}
          </p>
          <Button onClick={() => void outbox.forget(first.statement.key)}>Take it away</Button>
        </div>
      )}
    </section>
  );
}

function useSecondsTo(at: number | null): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (at === null) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [at]);
  return at === null ? 0 : Math.max(0, Math.ceil((at - now) / 1000));
}
