/** What training is at: the time left, and how busy it keeps the machine. */
import { percent, size } from "../../shared/format.ts";
import type { StageOfRun } from "../../shared/runs.ts";
import type { Epoch } from "../data.ts";
import { epochsLeftSeconds, roughly } from "../runs.ts";
import { useNow } from "./useNow.ts";

interface Props {
  epochs: readonly Epoch[];
  train: StageOfRun | undefined;
}

/** Beside what is read aloud with each epoch: it changes every second. */
export function TimeLeft({ epochs, train }: Props) {
  const now = useNow(train?.status === "running");
  const left = epochsLeftSeconds(epochs, train, now);
  const last = epochs.at(-1);
  if (left === null || !last?.epochs || last.epoch >= last.epochs) return null;
  return (
    <p className="small">
      {left < 1 ? "The last epoch is over in a moment" : `About ${roughly(left)} of training left`}
    </p>
  );
}

/** How busy the machine was in the newest epoch, and what of that was training. */
export function Busy({ epoch }: { epoch: Epoch }) {
  const told = busyInWords(epoch);
  return told.length > 0 && <p className="small soft">In this epoch: {told.join("; ")}</p>;
}

export function busyInWords(epoch: Epoch): string[] {
  const { cpu_utilisation: cpu, process_cpu_utilisation: ownCpu, process_memory_bytes: own } = epoch;
  const told: string[] = [];
  if (typeof cpu === "number")
    told.push(
      `CPU ${percent(cpu, 0)} busy${typeof ownCpu === "number" ? `, ${percent(ownCpu, 0)} by training` : ""}`,
    );
  const memory = used(epoch.memory_bytes, epoch.memory_total_bytes);
  if (memory) told.push(`memory ${memory}${typeof own === "number" ? `, ${size(own)} by training` : ""}`);
  const { gpu_utilisation: gpu } = epoch;
  const gpuMemory = used(epoch.gpu_memory_bytes, epoch.gpu_memory_total_bytes);
  if (typeof gpu === "number")
    told.push(`GPU ${percent(gpu, 0)} busy${gpuMemory ? `, memory ${gpuMemory}` : ""}`);
  return told;
}

/** "3.1 GB of 8.2 GB". */
function used(bytes: number | null | undefined, whole: number | null | undefined): string | null {
  if (typeof bytes !== "number") return null;
  return typeof whole === "number" ? `${size(bytes)} of ${size(whole)}` : size(bytes);
}
