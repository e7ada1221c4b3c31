/** Training, epoch by epoch: accuracy on the validation images and loss, live, with the time left; as a table too. */
import { useEffect, useRef, useSyncExternalStore } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { DataTable } from "../../shared/components/DataTable.tsx";
import { duration, percent } from "../../shared/format.ts";
import type { StageOfRun } from "../../shared/runs.ts";
import type { Epoch } from "../data.ts";
import "./Curve.css";
import { Busy, TimeLeft } from "./TrainingNow.tsx";

const HEIGHT = 240;

interface Props {
  epochs: readonly Epoch[];
  train: StageOfRun | undefined;
}

export function Curve({ epochs, train }: Props) {
  const last = epochs.at(-1);
  return (
    <figure className="curve">
      <figcaption className="row small">
        <span className="curve-key curve-key-accuracy">right on validation images, %</span>
        <span className="curve-key curve-key-loss">loss in training</span>
      </figcaption>
      <Plot epochs={epochs} />
      <p className="small soft" role="status">
        {last &&
          `Epoch ${last.epoch}${last.epochs ? ` of ${last.epochs}` : ""}${
            typeof last.validation_accuracy === "number"
              ? `: ${percent(last.validation_accuracy)} of the validation images are right`
              : ""
          }`}
      </p>
      <TimeLeft epochs={epochs} train={train} />
      {last && <Busy epoch={last} />}
      <details className="curve-table">
        <summary>As a table</summary>
        <DataTable
          caption="Training, epoch by epoch"
          rows={epochs}
          rowKey={({ epoch }) => epoch}
          columns={[
            { name: "Epoch", cell: ({ epoch }) => epoch, numeric: true, isHeader: true },
            { name: "Loss", cell: (row) => lossOf(row)?.toFixed(3) ?? "–", numeric: true },
            {
              name: "Right on validation images",
              cell: ({ validation_accuracy: share }) => (typeof share === "number" ? percent(share) : "–"),
              numeric: true,
            },
            {
              name: "Took",
              cell: ({ seconds }) => (typeof seconds === "number" ? duration(seconds) : "–"),
              numeric: true,
            },
            ...BUSY.filter(({ key }) => epochs.some((row) => typeof row[key] === "number")).map(
              ({ key, name }) => ({
                name,
                cell: (row: Epoch) => (typeof row[key] === "number" ? percent(row[key], 0) : "–"),
                numeric: true,
              }),
            ),
          ]}
        />
      </details>
    </figure>
  );
}

const BUSY = [
  { key: "cpu_utilisation", name: "CPU" },
  { key: "gpu_utilisation", name: "GPU" },
] as const;

const lossOf = (epoch: Epoch): number | null => epoch.train_loss ?? null;

const DARK = matchMedia("(prefers-color-scheme: dark)");
function watchColours(told: () => void): () => void {
  const watcher = new MutationObserver(told);
  watcher.observe(document.documentElement, { attributeFilter: ["data-theme"] });
  DARK.addEventListener("change", told);
  return () => {
    watcher.disconnect();
    DARK.removeEventListener("change", told);
  };
}
const colours = () => {
  const style = getComputedStyle(document.documentElement);
  return ["--ink-soft", "--line", "--accent", "--busy"].map((name) => style.getPropertyValue(name)).join("|");
};

function Plot({ epochs }: { epochs: readonly Epoch[] }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(null);
  const shown = useRef(epochs);
  const palette = useSyncExternalStore(watchColours, colours);
  useEffect(() => {
    if (place.current === null) return;
    const [ink = "", line = "", accent = "", busy = ""] = palette.split("|");
    const font = "13px system-ui, sans-serif";
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line }, font };
    const points = { show: true, size: 6 };
    const made = new uPlot(
      {
        width: place.current.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { show: false } },
        scales: {
          x: { time: false, range: () => epochRange(shownEpochs(shown.current)) },
          "%": {
            range: (_, low, high) => [
              Math.max(0, Math.floor(low / 10) * 10),
              Math.min(100, Math.ceil(high / 10) * 10),
            ],
          },
          loss: { range: (_, __, high) => [0, high * 1.1 || 1] },
        },
        axes: [
          {
            ...axis,
            incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500],
            label: "epoch",
            labelSize: 22,
            labelFont: font,
          },
          { ...axis, scale: "%", size: 54, values: (_, ticks) => ticks.map((tick) => `${tick} %`) },
          { ...axis, scale: "loss", side: 1, size: 46, grid: { show: false } },
        ],
        series: [
          {},
          { scale: "%", stroke: accent, width: 2, points: { ...points, fill: accent } },
          { scale: "loss", stroke: busy, width: 2, dash: [5, 4], points: { ...points, fill: busy } },
        ],
      },
      dataOf(shown.current),
      place.current,
    );
    plot.current = made;
    const watcher = new ResizeObserver(([entry]) => {
      if (entry) made.setSize({ width: entry.contentRect.width, height: HEIGHT });
    });
    watcher.observe(place.current);
    return () => {
      watcher.disconnect();
      made.destroy();
    };
  }, [palette]);
  useEffect(() => {
    shown.current = epochs;
    plot.current?.setData(dataOf(epochs));
  }, [epochs]);
  return <div ref={place} className="curve-plot" aria-hidden="true" />;
}

const epochRange = (epochs: number): [number, number] => (epochs <= 1 ? [0.5, 1.5] : [1, epochs]);
const shownEpochs = (epochs: readonly Epoch[]): number => epochs.at(-1)?.epochs ?? epochs.length;

function dataOf(epochs: readonly Epoch[]): uPlot.AlignedData {
  return [
    epochs.map(({ epoch }) => epoch),
    epochs.map(({ validation_accuracy: share }) => (typeof share === "number" ? 100 * share : null)),
    epochs.map(lossOf),
  ];
}
