/** What became of one's own corrections: all of them, and one on a page of its own. */
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { Link, useParams } from "wouter";
import { useParameter, withKept } from "../../shared/address.ts";
import { ApiError, type GatewayComponents, gateway } from "../../shared/api/client.ts";
import { Button } from "../../shared/components/Button.tsx";
import { Card } from "../../shared/components/Card.tsx";
import { Confirm } from "../../shared/components/Confirm.tsx";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { Pixels } from "../../shared/components/Pixels.tsx";
import { StatusMark } from "../../shared/components/StatusMark.tsx";
import { Empty, Failed, Loading, Stale } from "../../shared/components/states.tsx";
import { say } from "../../shared/components/Toasts.tsx";
import { useLive } from "../../shared/live.ts";
import { isActive } from "../../shared/runs.ts";
import { Replay } from "../answer/Replay.tsx";
import { useOutbox } from "../correct/outbox.ts";
import { useEndless } from "../history/endless.ts";
import { VirtualList } from "../history/VirtualList.tsx";
import { useModels } from "../model.tsx";
import { imageOf, ReceiptCard, SampleMark, useReceipt } from "../receipts/ReceiptCard.tsx";
import type { Receipt } from "../receipts/steps.ts";
import "./Receipts.css";

type Item = GatewayComponents["schemas"]["CorrectionItem"];

const ROW_PX = 76;
const PAGE = 100;
const PEOPLES: ("correction" | "review")[] = ["correction", "review"];

export function Receipts() {
  const [model] = useParameter("model");
  const [withSamples, setWithSamples] = useParameter("samples");
  const { waiting, sent } = useOutbox();
  const source = withSamples === null ? PEOPLES : null;
  const list = useEndless<Item>(["receipts", model, withSamples], (before, signal) =>
    gateway.get("/corrections", { query: { mine: true, limit: PAGE, before, model, source }, signal }),
  );
  useLive(({ stage, status }) => {
    // Their states change when a run took them in and when it ended.
    if (
      (stage === "version" && status === "succeeded") ||
      (stage === null && !isActive({ status } as never))
    ) {
      list.refresh();
    }
  });
  const { refresh } = list;
  const arrived = sent.size;
  useEffect(() => {
    if (arrived > 0) refresh();
  }, [arrived, refresh]);
  const first = list.items.length === 0;
  // Once there is something to see or leave out; it stays while the list is asked for anew.
  const [isOffered, setOffered] = useState(withSamples !== null);
  if (!first && !isOffered) setOffered(true);
  return (
    <div className="stack">
      <div className="receipts-head">
        <div>
          <h1>My receipts</h1>
          <p className="soft">What you said in this browser, newest first, and what became of it.</p>
        </div>
        <Stale />
      </div>
      {first && list.isLoading && !list.error && <Loading what="your receipts" lines={8} />}
      {first && list.isDone && (
        <Empty title={waiting.length > 0 ? "Nothing has arrived yet" : "No receipts yet"}>
          <p>
            {waiting.length > 0
              ? "What you said waits in this browser until Emend takes it."
              : "Draw or upload something, say what it really is, and its receipt is kept here."}
          </p>
          <p className="row">
            <Link href={withKept("/")}>Draw something</Link>
            <Link href={withKept("/upload")}>Upload pictures</Link>
          </p>
        </Empty>
      )}
      {isOffered && (
        <label className="receipts-samples small">
          <input
            type="checkbox"
            checked={withSamples !== null}
            onChange={(event) => setWithSamples(event.target.checked ? "shown" : null)}
          />
          Show samples, too
        </label>
      )}
      {!first && (
        <VirtualList
          name="Receipts"
          items={list.items}
          rowKey={(item) => item.correction_id}
          height={ROW_PX}
          more={list.more}
          isOpen={!list.isDone}
          row={(item) => <Row item={item} />}
        />
      )}
      {list.error && (
        <Failed
          what={first ? "Your receipts could not be loaded" : "The rest could not be loaded"}
          error={list.error}
          retry={list.retry}
        />
      )}
    </div>
  );
}

function Row({ item }: { item: Item }) {
  const isLeaving = item.withdrawn_at !== null && (item.status === "merged" || item.status === "exam");
  return (
    <Link href={withKept(`/receipts/${item.correction_id}`)} className="receipts-row">
      <Pixels src={imageOf(item.correction_id)} alt="" size={52} />
      <span className="receipts-label">
        {item.label} {item.source === "sample" && <SampleMark />}
      </span>
      <span className="receipts-status">
        {item.live === null || isLeaving ? (
          <StatusMark status={isLeaving ? "withdrawn" : item.status} />
        ) : (
          <StatusMark
            status={item.live.correct ? "right" : "wrong"}
            word={`Version ${item.live.version} gets it ${item.live.correct ? "right" : "wrong"}`}
          />
        )}
        {item.dataset_version !== null && (item.live === null || isLeaving) && (
          <span className="soft small receipts-dataset">
            {item.status === "withdrawn" ? "was in " : isLeaving && "until the next run in "}dataset{" "}
            {item.dataset_version}
          </span>
        )}
      </span>
      <span className="soft small receipts-time">
        <LocalTime at={item.received_at} /> <span aria-hidden="true">›</span>
      </span>
    </Link>
  );
}

export function OneReceipt() {
  const { id = "" } = useParams<{ id: string }>();
  const receipt = useReceipt(id);
  const notThere = receipt.error instanceof ApiError && [400, 404].includes(receipt.error.status);
  return (
    <div className="stack">
      <div className="receipts-head">
        <div>
          <p className="small">
            <Link href={withKept("/receipts")}>My receipts</Link>
          </p>
          <h1>Receipt</h1>
        </div>
        <Stale />
      </div>
      {notThere ? (
        <Empty title="There is no such receipt">
          <p>Perhaps the address was cut off.</p>
          <Link href={withKept("/receipts")}>To my receipts</Link>
        </Empty>
      ) : (
        <div className="receipts-columns">
          <div className="stack receipts-column">
            <ReceiptCard id={id} isLink={false} />
            {receipt.data && <Withdraw receipt={receipt.data} />}
          </div>
          {receipt.data && <TwoVersions receipt={receipt.data} />}
        </div>
      )}
    </div>
  );
}

/** The version that was asked and the live one; where they are the same, the one that was trained on it since. */
function TwoVersions({ receipt }: { receipt: Receipt }) {
  const { data } = useModels();
  const model = data?.models.find(({ name }) => name === receipt.model);
  const live = model?.champion?.version;
  const asked = receipt.prediction?.version ?? receipt.history[0]?.version;
  const judged = receipt.history.map(({ version }) => version).filter((version) => version !== asked);
  const other = live === asked ? judged.at(-1) : live;
  const say = (version: number, than: number) => {
    if (version === live) return version < than ? "live again" : "live now";
    return version < than ? "before" : "undone since";
  };
  return (
    <Card title="The same picture, two versions">
      {model === undefined || live === undefined ? (
        <p className="soft receipts-two">No version is live to compare with.</p>
      ) : asked === undefined || other === undefined ? (
        <p className="soft receipts-two">
          {asked === live
            ? `Version ${live} gave the answer and is still live.`
            : `Version ${live} is live; no older one was asked.`}{" "}
          When another version is live, both answers are shown here.
        </p>
      ) : (
        <Replay
          model={model}
          image={imageOf(receipt.correction_id)}
          label={receipt.label}
          before={Math.min(asked, other)}
          after={Math.max(asked, other)}
          beforeIs={say(Math.min(asked, other), Math.max(asked, other))}
          afterIs={say(Math.max(asked, other), Math.min(asked, other))}
        />
      )}
    </Card>
  );
}

function Withdraw({ receipt }: { receipt: Receipt }) {
  const [asking, setAsking] = useState(false);
  const queries = useQueryClient();
  const withdraw = useMutation({
    mutationFn: () =>
      gateway.post("/corrections/{correction_id}/withdraw", {
        path: { correction_id: receipt.correction_id },
      }),
    onSuccess: () => {
      setAsking(false);
      say("Taken back");
      void queries.invalidateQueries({ queryKey: ["receipts"] });
    },
  });
  if (receipt.withdrawn_at !== null || receipt.status === "withdrawn") return null;
  const isDuplicate = receipt.status === "superseded" && receipt.dataset_version !== null;
  return (
    <div>
      <Button kind="quiet" onClick={() => setAsking(true)}>
        Take this correction back
      </Button>
      <Confirm
        open={asking}
        title="Take it back?"
        confirm="Take it back"
        kind="danger"
        busy={withdraw.isPending}
        error={withdraw.error}
        onConfirm={() => withdraw.mutate()}
        onClose={() => {
          setAsking(false);
          withdraw.reset();
        }}
      >
        <p>
          {isDuplicate
            ? "Only what you said is taken back: the picture stays in the dataset, because it was said before."
            : receipt.dataset_version !== null
              ? "The next run takes it out of the dataset; versions trained with it stay as they are."
              : "It will not be trained on. To say something else of it, draw or upload it again."}
        </p>
      </Confirm>
    </div>
  );
}
