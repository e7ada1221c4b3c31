/** What became of a correction, as the steps it goes through. */
import type { GatewayComponents } from "../../shared/api/client.ts";
import { counted } from "../../shared/format.ts";

export type Receipt = GatewayComponents["schemas"]["ReceiptAnswer"];

/** now: it is here. later: not yet. stopped: it came to its end here. ended: it will never come. */
export type StepState = "done" | "now" | "later" | "stopped" | "ended" | "aside" | "right" | "wrong";

export interface Step {
  name: string;
  state: StepState;
  note?: string;
}

/** Always five, so that a card keeps its size. isRunning: a run of the model is under way. */
export function stepsOf(receipt: Receipt, isRunning: boolean): Step[] {
  return [
    { name: "Received", state: "done" },
    checked(receipt, isRunning),
    kept(receipt),
    trained(receipt),
    outcome(receipt),
  ];
}

function checked(receipt: Receipt, isRunning: boolean): Step {
  const { status, review, waiting, dataset_version } = receipt;
  if (isGoing(receipt)) {
    const name = review === "reject" ? "Left out" : review === "relabel" ? "Not used" : "Taken back";
    return { name, state: "stopped" };
  }
  if (status === "quarantined") {
    if (review === null) return { name: "Set aside", state: "aside" };
    if (review === "reject") return { name: "Left out", state: "stopped" };
    if (review === "relabel" && dataset_version === null) return { name: "Not used", state: "stopped" };
    return { name: "Checked", state: "done" };
  }
  if (status === "superseded" && dataset_version === null) return { name: "Not used", state: "stopped" };
  if (status !== "accepted") return { name: "Checked", state: "done" };
  if (isRunning) return { name: "Checked", state: "now", note: "in the run under way, or the next" };
  const missing = waiting?.missing_for_a_run ?? 0;
  return {
    name: "Checked",
    state: "now",
    note: missing > 0 ? `a run needs ${counted(missing, "more correction")}` : "waits for the next run",
  };
}

function kept(receipt: Receipt): Step {
  const { dataset_version, split, status } = receipt;
  if (dataset_version === null) {
    return { name: "In the dataset", state: isOver(receipt) ? "ended" : "later" };
  }
  const dataset = `dataset\u00a0${dataset_version}`;
  if (status === "withdrawn") return { name: `Was in ${dataset}`, state: "stopped" };
  const name = split === "exam question" ? `Exam in ${dataset}` : `In ${dataset}`;
  return isGoing(receipt) ? { name, state: "now", note: "until the next run" } : { name, state: "done" };
}

function trained(receipt: Receipt): Step {
  const { split, status, trained_versions, category, dataset_version } = receipt;
  if (split === "exam question") return { name: "Never trained on", state: "done" };
  const [first] = trained_versions;
  if (first !== undefined) return { name: `Trained into version\u00a0${first}`, state: "done" };
  if (isGoing(receipt)) return { name: "Trained", state: "ended" };
  if (dataset_version === null) return { name: "Trained", state: isOver(receipt) ? "ended" : "later" };
  if (status === "merged" && split === null) return { name: "Kept out of training", state: "ended" };
  if (category.missing > 0) {
    return {
      name: "Trained",
      state: "now",
      note: `${category.name} needs ${counted(category.missing, "more image", "more images")}; those that wait count`,
    };
  }
  return { name: "Trained", state: "now", note: "with the next version" };
}

function outcome(receipt: Receipt): Step {
  const { live, dataset_version, prediction, label } = receipt;
  if (isGoing(receipt)) return { name: "Right", state: "ended" };
  const wasRight = prediction?.label.toLowerCase() === label.toLowerCase();
  if (live?.correct) {
    return { name: wasRight ? "Still right" : "Now right", state: "right", note: `version ${live.version}` };
  }
  if (live !== null) {
    const name = wasRight ? "No longer right" : "Still wrong";
    return { name, state: "wrong", note: `version ${live.version} says ${live.label}` };
  }
  return { name: "Right", state: isOver(receipt) && dataset_version === null ? "ended" : "later" };
}

/** Taken out of the dataset already, or by the next run. */
function isGoing({ status, withdrawn_at }: Receipt): boolean {
  return status === "withdrawn" || (withdrawn_at !== null && (status === "merged" || status === "exam"));
}

/** What was set aside may still be let in, until somebody has decided. */
function isOver({ status, review }: Receipt): boolean {
  return (
    status === "superseded" ||
    status === "withdrawn" ||
    (status === "quarantined" && review !== null && review !== "accept")
  );
}
