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

function checked({ status, waiting, dataset_version }: Receipt, isRunning: boolean): Step {
  if (status === "quarantined") return { name: "Set aside", state: "aside" };
  if (status === "withdrawn") return { name: "Taken back", state: "stopped" };
  if (status === "superseded" && dataset_version === null) return { name: "Not used", state: "stopped" };
  if (status !== "accepted") return { name: "Checked", state: "done" };
  if (isRunning) return { name: "Checked", state: "now", note: "a run is under way: with it, or the next" };
  const missing = waiting?.missing_for_a_run ?? 0;
  return {
    name: "Checked",
    state: "now",
    note: missing > 0 ? `a run needs ${counted(missing, "more correction")}` : "waits for the next run",
  };
}

function kept(receipt: Receipt): Step {
  const { dataset_version, split } = receipt;
  if (dataset_version !== null) {
    return {
      name:
        split === "exam question" ? `Exam in dataset ${dataset_version}` : `In dataset ${dataset_version}`,
      state: "done",
    };
  }
  return { name: "In the dataset", state: isOver(receipt) ? "ended" : "later" };
}

function trained(receipt: Receipt): Step {
  const { split, trained_versions, category, dataset_version } = receipt;
  if (split === "exam question") return { name: "Never trained on", state: "done" };
  const [first] = trained_versions;
  if (first !== undefined) return { name: `Trained into version ${first}`, state: "done" };
  if (dataset_version === null) return { name: "Trained", state: isOver(receipt) ? "ended" : "later" };
  if (category.missing > 0) {
    return {
      name: "Trained",
      state: "now",
      note: `${category.name} needs ${counted(category.missing, "more image", "more images")}`,
    };
  }
  return { name: "Trained", state: "now", note: "with the next version" };
}

function outcome(receipt: Receipt): Step {
  const { live, dataset_version } = receipt;
  if (live?.correct) return { name: "Now right", state: "right", note: `version ${live.version}` };
  if (live !== null) {
    return { name: "Still wrong", state: "wrong", note: `version ${live.version} says ${live.label}` };
  }
  return { name: "Right", state: isOver(receipt) && dataset_version === null ? "ended" : "later" };
}

/** What was set aside may still be let in, until somebody has decided. */
function isOver({ status, review }: Receipt): boolean {
  return status === "superseded" || status === "withdrawn" || (status === "quarantined" && review !== null);
}
