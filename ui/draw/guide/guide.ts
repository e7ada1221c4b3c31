/**
 * The newcomer's five minutes: which drawing they are about and how far they got. Kept in the browser, so that a reload
 * loses nothing; dismissed once is dismissed for good.
 */
import type { Stroke } from "../../shared/drawing/rasterise.ts";
import { simplify } from "../../shared/drawing/simplify.ts";
import { Cell } from "../cell.ts";
import { type Category, named } from "../correct/names.ts";

export interface Subject {
  /** Idempotency-Key of the correction. */
  key: string;
  correctionId: string | null;
  model: string;
  label: string;
  /** What the model took it for, and which version. */
  answered: string | null;
  before: number | null;
  strokes: readonly Stroke[];
  /** Sample corrections made of it. */
  samples: number;
  /** Of these, how many were removed again. */
  removed: number;
  runId: number | null;
}

export interface GuideState {
  isDismissed: boolean;
  subject: Subject | null;
}

export const USUAL_SAMPLES = 24;
export const MOST_SAMPLES = 96;
const PER_MISSING = 1.8; // about one in four becomes an exam question, by its hash
const MISSING_OF_NEW = 20; // params.yaml: merge.min_images, until the gateway says it
const STORED = "emend-guide";

export const guide = new Cell<GuideState>(stored());

export function dismiss(): void {
  keep({ isDismissed: true, subject: null });
}

/** A drawing was said to be something else than answered: the guide is about it, unless it is about one already. */
export function begin(said: Omit<Subject, "correctionId" | "samples" | "removed" | "runId">): void {
  const { isDismissed, subject } = guide.value;
  if (isDismissed || (subject !== null && subject.samples > 0)) return;
  const strokes = simplify(said.strokes);
  keep({
    isDismissed,
    subject: { ...said, strokes, correctionId: null, samples: 0, removed: 0, runId: null },
  });
}

export function advance(change: Partial<Subject>): void {
  const { isDismissed, subject } = guide.value;
  if (subject !== null) keep({ isDismissed, subject: { ...subject, ...change } });
}

/** That was not meant: the guide is not about it, unless samples of it were made already. */
export function forgetUnlessBegun(key: string): void {
  const { subject } = guide.value;
  if (subject !== null && subject.key === key && subject.samples === 0) restart();
}

/** Of another drawing from now on. */
export function restart(): void {
  keep({ isDismissed: false, subject: null });
}

/** Enough for the next run to learn it: a new category needs a number of training images. */
export function samplesFor(label: string, categories: readonly Category[]): number {
  const category = named(label, categories);
  const missing = category === undefined ? MISSING_OF_NEW : category.missing;
  return Math.min(MOST_SAMPLES, Math.max(USUAL_SAMPLES, Math.ceil(PER_MISSING * missing)));
}

export function sampleKey(subject: Pick<Subject, "key">, number: number): string {
  return `${subject.key}-sample-${number}`;
}

function keep(state: GuideState): void {
  guide.set(state);
  try {
    localStorage.setItem(STORED, JSON.stringify(state));
  } catch {
    // storage is forbidden or full: it holds until the page is left
  }
}

function stored(): GuideState {
  const none = { isDismissed: false, subject: null };
  try {
    const found = JSON.parse(localStorage.getItem(STORED) ?? "null") as Partial<GuideState> | null;
    return found === null ? none : { ...none, ...found };
  } catch {
    return none;
  }
}
