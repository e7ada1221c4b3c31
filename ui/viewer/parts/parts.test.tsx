import { render, screen } from "@testing-library/react";
import { expect, test } from "vitest";
import type { Run } from "../../shared/runs.ts";
import { joined } from "../pages/Run.tsx";
import { pair } from "./Compare.tsx";
import { Intervals, ticksOf } from "./Intervals.tsx";
import { matching } from "./LabelPicker.tsx";
import { flat, written } from "./Params.tsx";
import { Busy, busyInWords, TimeLeft } from "./TrainingNow.tsx";
import { Categories, mistakesOf, VerdictSentence } from "./Verdict.tsx";

test("ticks are round, and within", () => {
  expect(ticksOf(-3.1, 9.2)).toEqual([0, 5]);
  expect(ticksOf(80.4, 92.3)).toEqual([85, 90]);
  expect(ticksOf(0.01, 0.05)).toEqual([0.01, 0.02, 0.03, 0.04, 0.05]);
});

test("differences are written with their sign", () => {
  render(<Intervals rows={[{ name: "Real", value: 5.12, low: -1.6, high: 9 }]} unit="points" zero signed />);
  expect(screen.getByRole("listitem").textContent).toBe("Real+5.1 points−1.6 to +9.0");
});

test("the category whose very name was typed comes first", () => {
  expect(matching(["caterpillar", "bobcat", "Cat"], "cat")).toEqual(["Cat", "caterpillar", "bobcat"]);
});

test("mistakes come with the most frequent first, right answers are none", () => {
  const counts = [
    [9, 1],
    [3, 2],
  ];
  expect(mistakesOf(["cat", "dog"], counts)).toEqual([
    { actual: "dog", predicted: "cat", images: 3, of: 5 },
    { actual: "cat", predicted: "dog", images: 1, of: 10 },
  ]);
});

test("the category that changed most comes first", () => {
  const of = (id: number, name: string, before: number | null, now: number | null) => ({
    id,
    name,
    images: 40,
    champion_recall: before,
    challenger_recall: now,
    low: null,
    high: null,
  });
  render(
    <Categories categories={[of(0, "cat", 0.5, 0.52), of(1, "dog", 0.9, 0.6), of(2, "igloo", null, 0.4)]} />,
  );
  const said = screen.getAllByRole("listitem").map((item) => item.textContent?.replaceAll("\u00a0", " "));
  expect(said).toEqual(["igloo40 %new40 images", "dog60 %−3040 images", "cat52 %+240 images"]);
});

test("parameters in parameters have dotted names", () => {
  expect(flat({ train: { seed: 1, widths: [1, 2] }, cron: null })).toEqual([
    ["train.seed", 1],
    ["train.widths", [1, 2]],
    ["cron", null],
  ]);
  expect([written(null), written([1, 2]), written("0 3 * * *")]).toEqual(["none", "[1,2]", "0 3 * * *"]);
});

test("training that began anew replaces the epochs of the attempt before", () => {
  const epoch = (number: number, loss: number) => ({ epoch: number, epochs: 4, train_loss: loss });
  expect(joined([epoch(1, 9), epoch(2, 8)], [])).toHaveLength(2);
  expect(joined([epoch(1, 9), epoch(2, 8)], [epoch(1, 3)])).toEqual([epoch(1, 3)]);
  expect(
    joined([epoch(1, 9), epoch(2, 8)], [epoch(2, 7), epoch(3, 6)]).map(({ train_loss }) => train_loss),
  ).toEqual([9, 7, 6]);
});

test("the time left of training goes when training does", () => {
  const now = Date.now();
  const train = {
    name: "train",
    status: "running",
    attempt: 1,
    started_at: new Date(now - 60_000).toISOString(),
    finished_at: null,
    duration_seconds: null,
    figures: {},
    message: null,
  } as const;
  const epoch = {
    epoch: 2,
    epochs: 4,
    seconds_left: 100.4,
    at: new Date(now).toISOString(),
    cpu_utilisation: 0.5,
  };
  const { rerender } = render(<TimeLeft epochs={[epoch]} train={train} />);
  expect(screen.getByText("About 1 min 40 s of training left")).toBeTruthy();
  rerender(<TimeLeft epochs={[epoch]} train={{ ...train, status: "succeeded" }} />);
  expect(screen.queryByText(/left/)).toBeNull();
  rerender(<TimeLeft epochs={[{ ...epoch, epoch: 4, seconds_left: 0 }]} train={train} />);
  expect(screen.queryByText(/left/)).toBeNull();
  rerender(<Busy epoch={epoch} />);
  expect(screen.getByText(/In this epoch: CPU 50/)).toBeTruthy();
});

test("what the machine did is told with what of it was training", () => {
  const plain = (words: string[]) => words.map((one) => one.replaceAll("\u00a0", " "));
  const figures = {
    epoch: 1,
    cpu_utilisation: 0.94,
    process_cpu_utilisation: 0.875,
    memory_bytes: 3.1e9,
    memory_total_bytes: 8.2e9,
    process_memory_bytes: 912e6,
    gpu_utilisation: 0.5,
    gpu_memory_bytes: 4.83e9,
    gpu_memory_total_bytes: 151e9,
  };
  expect(plain(busyInWords(figures))).toEqual([
    "CPU 94 % busy, 88 % by training",
    "memory 3.1 GB of 8.2 GB, 912 MB by training",
    "GPU 50 % busy, memory 4.8 GB of 151 GB",
  ]);
  expect(busyInWords({ epoch: 1 })).toEqual([]);
});

test("two versions are compared: those asked for, else the live one with the newest other", () => {
  expect(pair([3, 2, 1], 3, 1, 2)).toEqual([1, 2]);
  expect(pair([3, 2, 1], 2, Number.NaN, Number.NaN)).toEqual([2, 3]);
  expect(pair([3, 2, 1], 3, Number.NaN, Number.NaN)).toEqual([3, 2]);
  expect(pair([3, 2, 1], 3, Number.NaN, 3)).toEqual([2, 3]);
  expect(pair([1], 1, 9, 9)).toEqual([1, undefined]);
});

test("a figure that contradicts its rule is not shown", () => {
  const rule = { name: "loss", limit: -5, value: -0.6, unit: "points" as const, held: false, sentence: "" };
  const reasons = [{ name: "loss", passed: false, sentence: "it is worse on the real images", figures: {} }];
  const run = { stages: [], verdict: { promote: false, sentence: "Rejected.", reasons } } as unknown as Run;
  const { rerender } = render(<VerdictSentence run={run} rules={[rule]} />);
  expect(screen.queryByText(/the limit is/)).toBeNull();
  rerender(<VerdictSentence run={run} rules={[{ ...rule, value: -5.6 }]} />);
  expect(screen.getByText("−5.6 points; the limit is −5 points")).toBeTruthy();
});
