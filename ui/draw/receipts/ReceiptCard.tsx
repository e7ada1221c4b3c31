/** One correction's way, alive: asked for anew whenever a run gets further. */
import { type UseQueryResult, useQuery } from "@tanstack/react-query";
import { Link } from "wouter";
import { withKept } from "../../shared/address.ts";
import { gateway } from "../../shared/api/client.ts";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { Pixels } from "../../shared/components/Pixels.tsx";
import { Failed, Loading } from "../../shared/components/states.tsx";
import { useLiveState } from "../../shared/live.ts";
import { Word } from "../answer/Word.tsx";
import { useModels } from "../model.tsx";
import { type Receipt, type StepState, stepsOf } from "./steps.ts";
import "./ReceiptCard.css";

const ASK_EVERY_MS = 5_000; // while the live line is down

export function useReceipt(id: string): UseQueryResult<Receipt> {
  const isLive = useLiveState() === "live";
  return useQuery({
    queryKey: ["receipts", id],
    queryFn: ({ signal }) =>
      gateway.get("/corrections/{correction_id}", { path: { correction_id: id }, signal }),
    refetchInterval: isLive ? false : ASK_EVERY_MS,
  });
}

export function imageOf(id: string): string {
  return gateway.url("/corrections/{correction_id}/image", { path: { correction_id: id } });
}

/** isLink: its title leads to its own page. */
export function ReceiptCard({ id, isLink = true }: { id: string; isLink?: boolean }) {
  const receipt = useReceipt(id);
  return (
    <article className="receipt" aria-label="Receipt of a correction">
      {receipt.isPending && <Loading what="the receipt" lines={3} />}
      {receipt.isError && !receipt.data && (
        <Failed
          what="The receipt could not be loaded"
          error={receipt.error}
          retry={() => void receipt.refetch()}
        />
      )}
      {receipt.data && <Told receipt={receipt.data} isLink={isLink} />}
    </article>
  );
}

function Told({ receipt, isLink }: { receipt: Receipt; isLink: boolean }) {
  const { correction_id, label, prediction, received_at, sentence, source } = receipt;
  const word = <Word label={prediction?.label ?? label} corrected={prediction && label} size="small" />;
  return (
    <>
      <div className="receipt-head">
        <Pixels src={imageOf(correction_id)} alt={`The picture, said to be ${label}`} size={64} />
        <div>
          <p className="receipt-title">
            {isLink ? (
              <Link href={withKept(`/receipts/${correction_id}`)} className="receipt-link">
                {word}
              </Link>
            ) : (
              word
            )}
            {source === "sample" && <SampleMark />}
          </p>
          <p className="soft small">
            said <LocalTime at={received_at} ago />
          </p>
        </div>
      </div>
      <Steps receipt={receipt} />
      <p className="receipt-sentence" aria-live="polite">
        {sentence}
      </p>
    </>
  );
}

export function SampleMark() {
  return (
    <span className="receipt-sample" title="Made by the page from a drawing; can be removed">
      sample
    </span>
  );
}

export function Steps({ receipt }: { receipt: Receipt }) {
  const { data } = useModels();
  const isRunning = data?.models.find(({ name }) => name === receipt.model)?.active_run != null;
  return (
    <ol className="receipt-steps">
      {stepsOf(receipt, isRunning).map(({ name, state, note }) => (
        <li key={name} data-state={state}>
          <svg viewBox="0 0 16 16" aria-hidden="true">
            {ICONS[state]}
          </svg>
          <span>
            <span className="receipt-step">{name}</span>
            <span className="aloud">, {SAID[state]}</span>
            {note && <span className="receipt-note">{note}</span>}
          </span>
        </li>
      ))}
    </ol>
  );
}

const tick = <path d="M3 8.5 6.5 12 13 4.5" />;
const ICONS: Record<StepState, React.ReactNode> = {
  done: tick,
  right: tick,
  wrong: <path d="m4 4 8 8m0-8-8 8" />,
  now: <circle cx="8" cy="8" r="3.4" className="receipt-dot" />,
  later: <circle cx="8" cy="8" r="1.6" className="receipt-dot" />,
  stopped: <path d="M4 8h8" />,
  ended: <path d="M4 8h8" />,
  aside: <path d="M5.5 3.5v9m5-9v9" />,
};
const SAID: Record<StepState, string> = {
  done: "done",
  right: "done",
  wrong: "not yet right",
  now: "it is here now",
  later: "not yet",
  stopped: "it ended here",
  ended: "will not come",
  aside: "it stays here",
};
