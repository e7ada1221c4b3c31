/** The gate's verdict of a run in pictures: the holdout, each category, who is taken for whom, corrections fixed and broken. */
import { useId, useState } from "react";
import { Link } from "wouter";
import { Button } from "../../shared/components/Button.tsx";
import { Card } from "../../shared/components/Card.tsx";
import { StatusMark } from "../../shared/components/StatusMark.tsx";
import { count, counted, percent } from "../../shared/format.ts";
import { type Run, verdictOf, wasPaused } from "../../shared/runs.ts";
import type { CategoryRecall, Change, GateRule, HoldoutSide, JudgedCorrection, Report } from "../data.ts";
import { ImageGrid } from "./ImageGrid.tsx";
import { type IntervalRow, Intervals } from "./Intervals.tsx";
import "./Verdict.css";

interface SentenceProps {
  run: Run;
  /** With the limits and what was measured, once the report is there. */
  rules: readonly GateRule[];
}

export function VerdictSentence({ run, rules }: SentenceProps) {
  if (run.verdict === null) return null;
  const isPromoted = Boolean(run.verdict.promoted ?? run.verdict.promote);
  const reasons = (run.verdict.reasons ?? []) as { name: string; passed: boolean; sentence: string }[];
  return (
    <section className="verdict" data-good={isPromoted && !wasPaused(run)} aria-label="Verdict">
      <p className="verdict-sentence">{verdictOf(run)?.replaceAll(" %", "\u00a0%")}</p>
      {reasons.length > 0 && (
        <ul className="verdict-reasons">
          {reasons.map(({ name, passed, sentence }) => (
            <li key={name}>
              <StatusMark
                status={passed ? "succeeded" : "failed"}
                word={passed ? "holds" : "does not hold"}
              />
              <span>{sentence}</span>
              <Measured rule={rules.find((rule) => rule.name === name)} />
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

function Measured({ rule }: { rule: GateRule | undefined }) {
  if (!rule || rule.value === null || rule.limit === null) return null;
  const { value, limit, unit, held } = rule;
  // A rule with several clauses tells the figures of one: not those that say something else than its sentence.
  if (unit === "points" && held !== value >= limit) return null;
  const write = (number: number) => {
    if (unit === "fraction") return percent(number);
    if (unit === "categories") return counted(number, "category", "categories");
    if (unit === "corrections") return counted(number, "correction");
    const points = Number(number.toFixed(1));
    return `${points} ${Math.abs(points) === 1 ? "point" : "points"}`.replace("-", "−");
  };
  return (
    <span className="verdict-measured soft small number">
      {write(value)}; the limit is {write(limit)}
    </span>
  );
}

const SLICES = [
  ["holdout", "Real images"],
  ["generated", "Generated images"],
] as const;

export function Holdout({ report }: { report: Report }) {
  const slices = SLICES.flatMap(([key, name]) => {
    const slice = report[key];
    return slice && (slice.challenger || slice.champion) ? [{ name, slice }] : [];
  });
  if (slices.length === 0) return null;
  const side = (name: string, of: HoldoutSide, strong: boolean): IntervalRow => ({
    name,
    value: 100 * of.accuracy,
    low: of.low === null ? null : 100 * of.low,
    high: of.high === null ? null : 100 * of.high,
    strong,
  });
  const old =
    report.champion_version === null ? "Live then" : `Version ${report.champion_version}, live then`;
  const made = report.version === null ? "The new one" : `Version ${report.version}, new`;
  const gains = slices.flatMap(({ name, slice: { difference } }): IntervalRow[] => {
    if (!difference) return [];
    const { points: value, low, high } = difference;
    const tone = low !== null && low > 0 ? "good" : high !== null && high < 0 ? "bad" : undefined;
    return [{ name, value, low, high, tone }];
  });
  return (
    <Card title="On images never trained on">
      <p className="soft small">Right answers, with the 95 % interval.</p>
      {slices.map(({ name, slice: { champion, challenger } }) => (
        <section key={name} className="stack verdict-slice">
          <h3>
            {name}
            <span className="soft small"> {count((challenger ?? champion)?.images ?? 0)}</span>
          </h3>
          <Intervals
            rows={[
              ...(champion ? [side(old, champion, false)] : []),
              ...(challenger ? [side(made, challenger, true)] : []),
            ]}
            unit="%"
            limits={[0, 100]}
          />
        </section>
      ))}
      {gains.length > 0 && (
        <section className="stack verdict-slice">
          <h3>New less old, in points</h3>
          <Intervals rows={gains} unit="points" zero signed />
        </section>
      )}
    </Card>
  );
}

const FEW = 20;

/** Recall of the old as a ring, of the new as a point; the largest changes first. */
interface CategoriesProps {
  categories: readonly CategoryRecall[];
  /** What the ring and the point are: "before" and "now" unless told otherwise. */
  words?: readonly [before: string, now: string];
  of?: string;
  level?: 2 | 3;
}

export function Categories({
  categories,
  words: [before, now] = ["before", "now"],
  of = "images",
  level = 2,
}: CategoriesProps) {
  const [isWhole, setWhole] = useState(false);
  const known = categories.filter(({ images }) => images > 0);
  if (known.length === 0 && categories.some(({ generated_images: images }) => images)) {
    return (
      <Categories
        words={[before, now]}
        categories={categories.map(generatedOnly)}
        of="generated images"
        level={level}
      />
    );
  }
  const isFirst = known.every(({ champion_recall: recall }) => recall === null);
  const sorted = known.toSorted((a, b) =>
    isFirst
      ? (a.challenger_recall ?? 0) - (b.challenger_recall ?? 0)
      : Math.abs(changeOf(b)) - Math.abs(changeOf(a)),
  );
  const shown = isWhole ? sorted : sorted.slice(0, FEW);
  if (known.length === 0) return null;
  return (
    <Card title="Each category" level={level}>
      <p className="soft small">
        How many of its {of} were recognised
        {isFirst ? (
          ", the hardest first"
        ) : (
          <>
            : <span className="recall-key-old">{before}</span> and{" "}
            <span className="recall-key-new">{now}</span>, the largest changes first
          </>
        )}
        {known.some(({ low }) => low !== null) && `; with the 95 % interval of ${now}`}.
      </p>
      <div className="recall-row recall-head soft small" aria-hidden="true">
        <span />
        <span className="recall-scale">
          <span>0 %</span>
          <span>50 %</span>
          <span>100 %</span>
        </span>
        <span>{now}</span>
        <span>points</span>
        <span>images</span>
      </div>
      <ul className="recall">
        {shown.map((category) => (
          <Recall key={category.id ?? category.name} category={category} isFirst={isFirst} />
        ))}
      </ul>
      {sorted.length > FEW && (
        <Button kind="quiet" onClick={() => setWhole(!isWhole)}>
          {isWhole ? "Show fewer" : `Show all ${count(sorted.length)}`}
        </Button>
      )}
    </Card>
  );
}

/** Where there are no real images yet, generated ones say it. */
function generatedOnly(category: CategoryRecall): CategoryRecall {
  return {
    ...category,
    images: category.generated_images ?? 0,
    champion_recall: category.champion_generated_recall ?? null,
    challenger_recall: category.challenger_generated_recall ?? null,
    low: null,
    high: null,
  };
}

function changeOf({ champion_recall: before, challenger_recall: now }: CategoryRecall): number {
  return before === null || now === null ? 1 : now - before;
}

function Recall({ category, isFirst }: { category: CategoryRecall; isFirst: boolean }) {
  const { name, images, champion_recall: before, challenger_recall: now, low, high } = category;
  const at = (share: number) => `${100 * share}%`;
  const change = before !== null && now !== null ? Math.round(100 * (now - before)) : null;
  return (
    <li className="recall-row">
      <span className="recall-name" title={name}>
        {name}
      </span>
      <span className="recall-track" aria-hidden="true">
        {low !== null && high !== null && (
          <span className="recall-interval" style={{ left: at(low), right: `calc(100% - ${at(high)})` }} />
        )}
        {before !== null && now !== null && (
          <span
            className="recall-way"
            data-tone={now >= before ? "good" : "bad"}
            style={{ left: at(Math.min(before, now)), right: `calc(100% - ${at(Math.max(before, now))})` }}
          />
        )}
        {before !== null && <span className="recall-old" style={{ left: at(before) }} />}
        {now !== null && <span className="recall-new" style={{ left: at(now) }} />}
      </span>
      <span className="recall-figure number">{now === null ? "left out" : percent(now, 0)}</span>
      <span
        className="recall-change number"
        data-tone={change === null || change === 0 ? undefined : change > 0 ? "good" : "bad"}
      >
        {before === null
          ? isFirst
            ? "–"
            : "new"
          : change === null
            ? `was ${percent(before, 0)}`
            : change === 0
              ? "same"
              : `${change > 0 ? "+" : "−"}${Math.abs(change)}`}
      </span>
      <span className="recall-images soft small number">
        {count(images)}
        <span className="aloud"> images</span>
      </span>
    </li>
  );
}

const MATRIX_CATEGORIES = 24;

export function Confusion({ confusion }: { confusion: NonNullable<Report["confusion"]> }) {
  const { categories, counts, missing, of } = confusion;
  const images = of === "generated" ? "generated image" : "holdout image";
  if (categories.length === 0) {
    return (
      <Card title="What is taken for what">
        <p className="soft">{missing ?? "There are no holdout images yet."}</p>
      </Card>
    );
  }
  const mistakes = mistakesOf(categories, counts);
  return (
    <Card title="What is taken for what">
      <div className={categories.length <= MATRIX_CATEGORIES ? "confusion" : "stack"}>
        {categories.length <= MATRIX_CATEGORIES ? (
          <Matrix categories={categories} counts={counts} images={`${images}s`} />
        ) : (
          <details>
            <summary>The whole matrix, {counted(categories.length, "category", "categories")}</summary>
            <Matrix categories={categories} counts={counts} images={`${images}s`} />
          </details>
        )}
        <div className="stack">
          {missing && <p className="soft small">{sentence(missing)}</p>}
          <h3>{mistakes.length === 0 ? `No ${images} is taken for something else` : "Most often"}</h3>
          <ol className="mistakes">
            {mistakes.slice(0, 8).map(({ actual, predicted, images, of }) => (
              <li key={`${actual} ${predicted}`}>
                <strong>{actual}</strong> taken for <strong>{predicted}</strong>{" "}
                <span className="soft small number">
                  {images} of {of}
                </span>
              </li>
            ))}
          </ol>
        </div>
      </div>
    </Card>
  );
}

const sentence = (words: string): string => `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;

export function mistakesOf(categories: readonly string[], counts: readonly (readonly number[])[]) {
  const all = counts.flatMap((row, actual) => {
    const of = row.reduce((sum, images) => sum + images, 0);
    return row.flatMap((images, predicted) =>
      images > 0 && actual !== predicted
        ? [{ actual: categories[actual] ?? "?", predicted: categories[predicted] ?? "?", images, of }]
        : [],
    );
  });
  return all.sort((a, b) => b.images - a.images);
}

interface MatrixProps {
  categories: readonly string[];
  counts: readonly (readonly number[])[];
  images: string;
}

function Matrix({ categories, counts, images: what }: MatrixProps) {
  const note = useId();
  return (
    <div>
      {/* A region that scrolls has to be reachable with the keyboard. */}
      <section
        className="matrix-scroll"
        aria-label="Confusion matrix"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: see above
        tabIndex={0}
      >
        <table className="matrix" aria-describedby={note}>
          <thead>
            <tr>
              <td />
              {categories.map((name) => (
                <th key={name} scope="col">
                  <span>{name}</span>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {counts.map((row, actual) => {
              const of = row.reduce((sum, images) => sum + images, 0);
              return (
                <tr key={categories[actual]}>
                  <th scope="row">{categories[actual]}</th>
                  {row.map((images, predicted) => (
                    <td
                      key={categories[predicted]}
                      className="number"
                      data-right={actual === predicted || undefined}
                      title={`${categories[actual]}: ${images} of ${of} taken for ${categories[predicted]}`}
                    >
                      {images > 0 && (
                        <span
                          className="matrix-shade"
                          style={{ opacity: 0.1 + (0.3 * images) / of }}
                          aria-hidden="true"
                        />
                      )}
                      <span className={images === 0 ? "matrix-none" : "matrix-count"}>{images}</span>
                    </td>
                  ))}
                </tr>
              );
            })}
          </tbody>
        </table>
      </section>
      <p id={note} className="small soft matrix-note">
        Down: what it is. Across: what the new version says. Counts of {what}.
      </p>
    </div>
  );
}

const CHANGES: readonly [Change, string, string][] = [
  ["fixed", "succeeded", "Fixed"],
  ["broke", "failed", "Broken"],
  ["still wrong", "rejected", "Still wrong"],
  ["still right", "done", "Right as before"],
];

export function Corrections({ corrections }: { corrections: NonNullable<Report["corrections"]> }) {
  const { items } = corrections;
  const counts = new Map(
    CHANGES.map(([change]) => [change, items.filter((item) => item.change === change).length]),
  );
  const first = CHANGES.find(([change]) => (counts.get(change) ?? 0) > 0)?.[0] ?? "fixed";
  const [chosen, choose] = useState<Change>();
  const change = chosen ?? first;
  const shown = items.filter((item) => item.change === change);
  return (
    <Card title="What people corrected">
      {items.length === 0 ? (
        <p className="soft">No correction was there to judge by.</p>
      ) : (
        <>
          <fieldset className="choices">
            <legend className="aloud">Which corrections</legend>
            {CHANGES.map(([one, status, word]) => (
              <button
                key={one}
                type="button"
                aria-pressed={one === change}
                onClick={() => choose(one)}
                disabled={counts.get(one) === 0}
              >
                <StatusMark status={status} word={word} />{" "}
                <span className="number">{count(counts.get(one) ?? 0)}</span>
              </button>
            ))}
          </fieldset>
          {(corrections.left_out ?? 0) > 0 && (
            <p className="small soft">
              {counted(corrections.left_out ?? 0, "more is", "more are")} not shown here.
            </p>
          )}
          <ImageGrid
            key={change}
            items={shown.map((item) => ({ key: item.correction_id, image: item.image, ...told(item) }))}
          />
        </>
      )}
    </Card>
  );
}

function told(item: JudgedCorrection) {
  const { label, champion_label: before, challenger_label: now, split } = item;
  return {
    alt: `${label}; before: ${before ?? "not asked"}, now: ${now ?? "not asked"}`,
    title: label,
    lines: [
      ...(before === now
        ? [`both say ${now ?? "nothing"}`]
        : [`was ${before ?? "not asked"}`, `now ${now ?? "not asked"}`]),
      split === "exam" ? "exam question" : "learned from",
    ],
  };
}

/** What retention took away, in its own words. */
export function Missing({ missing }: { missing: readonly string[] | null | undefined }) {
  if (!missing || missing.length === 0) return null;
  return (
    <p className="soft small">
      Not shown any more: {missing.join("; ")}. <Link href="/">Newer runs</Link> have everything.
    </p>
  );
}
