import { expect, it } from "vitest";
import { type Receipt, stepsOf } from "./steps.ts";

const received: Receipt = {
  category: { id: 1, name: "cat", state: "active", train_images: 400, missing: 0 },
  correction_id: "01a1fc83-ab40-71f9-af6c-7c7d77ef63fd",
  dataset_version: null,
  history: [],
  image: "/corrections/1/image",
  image_sha256: "00",
  label: "cat",
  live: null,
  model: "doodles",
  prediction: null,
  prediction_id: null,
  reason: null,
  review: null,
  reviewed_at: null,
  reviewed_by: null,
  withdrawn_at: null,
  receipt: "/corrections/1",
  received_at: "2026-11-21T05:10:49Z",
  sentence: "Received.",
  source: "correction",
  split: null,
  status: "accepted",
  trained_versions: [],
  waiting: { corrections: 3, missing_for_a_run: 7, missing_for_the_trigger: null },
};

const told = (change: Partial<Receipt>, isRunning = false) =>
  stepsOf({ ...received, ...change }, isRunning).map(({ name, state }) => `${name}: ${state}`);

it("waits, and says what for", () => {
  expect(told({})).toEqual([
    "Received: done",
    "Checked: now",
    "In the dataset: later",
    "Trained: later",
    "Right: later",
  ]);
  expect(stepsOf(received, false)[1]?.note).toBe("a run needs 7 more corrections");
  expect(stepsOf(received, true)[1]?.note).toBe("in the run under way, or the next");
});

it("goes through to right", () => {
  const learned: Partial<Receipt> = {
    status: "merged",
    split: "learned",
    dataset_version: 12,
    trained_versions: [7, 8],
    live: { version: 8, label: "cat", correct: true },
  };
  expect(told(learned)).toEqual([
    "Received: done",
    "Checked: done",
    "In dataset\u00a012: done",
    "Trained into version\u00a07: done",
    "Now right: right",
  ]);
});

it("an exam question is never trained on, and may still be wrong", () => {
  const exam: Partial<Receipt> = {
    status: "exam",
    split: "exam question",
    dataset_version: 12,
    live: { version: 8, label: "dog", correct: false },
  };
  expect(told(exam).slice(2)).toEqual([
    "Exam in dataset\u00a012: done",
    "Never trained on: done",
    "Still wrong: wrong",
  ]);
});

it("what was set aside waits for a person, and is over when one said no", () => {
  expect(told({ status: "quarantined", reason: "conflict" })).toEqual([
    "Received: done",
    "Set aside: aside",
    "In the dataset: later",
    "Trained: later",
    "Right: later",
  ]);
  expect(told({ status: "quarantined", review: "reject" }).slice(1)).toEqual([
    "Left out: stopped",
    "In the dataset: ended",
    "Trained: ended",
    "Right: ended",
  ]);
});

it("what was taken back is over, wherever it was", () => {
  expect(told({ status: "withdrawn" })[1]).toBe("Taken back: stopped");
  const learned: Partial<Receipt> = {
    withdrawn_at: "2026-11-21T05:10:49Z",
    dataset_version: 12,
    live: { version: 8, label: "cat", correct: true },
  };
  expect(told({ ...learned, status: "merged", split: "learned", trained_versions: [7] }).slice(1)).toEqual([
    "Taken back: stopped",
    "In dataset\u00a012: now",
    "Trained into version\u00a07: done",
    "Right: ended",
  ]);
  expect(told({ ...learned, status: "withdrawn" }).slice(1)).toEqual([
    "Taken back: stopped",
    "Was in dataset\u00a012: stopped",
    "Trained: ended",
    "Right: ended",
  ]);
});

it("what a person decided no longer waits for one", () => {
  expect(told({ status: "quarantined", review: "accept" }).slice(1, 3)).toEqual([
    "Checked: done",
    "In the dataset: later",
  ]);
  expect(told({ status: "quarantined", review: "relabel" })[1]).toBe("Not used: stopped");
});

it("what is nearly an exam question is kept, and not trained on", () => {
  expect(told({ status: "merged", dataset_version: 12 }).slice(2, 4)).toEqual([
    "In dataset\u00a012: done",
    "Kept out of training: ended",
  ]);
});

it("what was right from the start is not right now for the first time", () => {
  const agreed: Partial<Receipt> = {
    status: "merged",
    split: "learned",
    dataset_version: 12,
    trained_versions: [7],
    prediction: { id: "1", label: "Cat", version: 6 },
  };
  expect(told({ ...agreed, live: { version: 7, label: "cat", correct: true } })[4]).toBe(
    "Still right: right",
  );
  expect(told({ ...agreed, live: { version: 7, label: "dog", correct: false } })[4]).toBe(
    "No longer right: wrong",
  );
});

it("a new category says how many images it needs", () => {
  const pending: Partial<Receipt> = {
    status: "merged",
    dataset_version: 3,
    split: "learned",
    category: { id: 10, name: "igloo", state: "pending", train_images: 8, missing: 12 },
  };
  expect(stepsOf({ ...received, ...pending }, false)[3]).toEqual({
    name: "Trained",
    state: "now",
    note: "igloo needs 12 more images; those that wait count",
  });
});

it("a duplicate is told what became of the one it repeats", () => {
  const duplicate: Partial<Receipt> = {
    status: "superseded",
    dataset_version: 2,
    trained_versions: [2],
    live: { version: 2, label: "cat", correct: true },
  };
  expect(told(duplicate)[1]).toBe("Checked: done");
  expect(told(duplicate)[4]).toBe("Now right: right");
});
