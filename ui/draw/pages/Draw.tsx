/** The home page: draw, see what the model thinks at every stroke, say what it is. */
import { useEffect, useState } from "react";
import { Link } from "wouter";
import { withKept } from "../../shared/address.ts";
import { toBase64 } from "../../shared/base64.ts";
import { Button } from "../../shared/components/Button.tsx";
import { Pixels } from "../../shared/components/Pixels.tsx";
import { Empty } from "../../shared/components/states.tsx";
import type { Stroke } from "../../shared/drawing/rasterise.ts";
import { counted, percent, sentence } from "../../shared/format.ts";
import { Bars } from "../answer/Bars.tsx";
import { Word } from "../answer/Word.tsx";
import { Cell, useCell } from "../cell.ts";
import { Correct } from "../correct/Correct.tsx";
import { newKey, outbox, useOutbox } from "../correct/outbox.ts";
import { type Answer, type Asked, same } from "../drawing/asker.ts";
import { Canvas } from "../drawing/Canvas.tsx";
import { useSketch } from "../drawing/sketch.ts";
import { pixelsOf, sketch, useAsked } from "../drawing/studio.ts";
import { Guide } from "../guide/Guide.tsx";
import { begin, forgetUnlessBegun, guide } from "../guide/guide.ts";
import { canBeDrawnFor, type Model, WithModel } from "../model.tsx";
import { ReceiptCard } from "../receipts/ReceiptCard.tsx";
import "./Draw.css";

/** What was said of the drawing on the sheet. */
interface Said {
  key: string;
  model: string;
  label: string;
  answer: Answer | null;
  strokes: readonly Stroke[];
}

const said = new Cell<Said | null>(null);

export function Draw() {
  return (
    <WithModel title="Draw something" titleClass="draw-heading">
      {(model) => (canBeDrawnFor(model) ? <Studio model={model} /> : <NoDrawing model={model} />)}
    </WithModel>
  );
}

function NoDrawing({ model }: { model: Model }) {
  return (
    <div className="stack">
      <h1 className="draw-heading">Draw something</h1>
      <Empty title={`The model “${model.name}” looks at photos, not at drawings`}>
        <p>
          <Link href={withKept("/upload")}>Upload a photo</Link>, or choose another model above.
        </p>
      </Empty>
    </div>
  );
}

function Studio({ model }: { model: Model }) {
  const { asked, ask } = useAsked(model);
  const { strokes, revision } = useSketch(sketch);
  const last = useCell(said);
  const now = last !== null && last.strokes === strokes && last.model === model.name ? last : null;
  useShortcuts(ask);

  const steady = useSteady(asked);

  const say = (label: string) => {
    const pixels = pixelsOf(sketch.strokes, model.input.width);
    if (pixels === null) return;
    const key = newKey();
    said.set({ key, model: model.name, label, answer: asked.answer, strokes: sketch.strokes });
    if (asked.answer?.label.toLowerCase() !== label.toLowerCase()) {
      begin({
        key,
        model: model.name,
        label,
        answered: asked.answer?.label ?? null,
        before: asked.answer?.version ?? model.champion?.version ?? null,
        strokes: sketch.strokes,
      });
    }
    void outbox.add({
      key,
      model: model.name,
      label,
      image: toBase64(pixels),
      // Just after an undo the answer is still to the drawing before.
      predictionId:
        asked.isFinal && same(pixels, asked.pixels) ? (asked.answer?.prediction_id ?? null) : null,
      source: "correction",
    });
  };

  return (
    <>
      <div className="draw">
        <h1 className="draw-title draw-heading">Draw something</h1>
        <p className="draw-can soft">{known(model)}</p>
        <div className="draw-sheet">
          <Canvas sketch={sketch} />
          <Tools ask={ask} asked={asked} />
        </div>
        <section className="draw-answer" aria-label="What the model sees">
          <Headline asked={asked} now={now} model={model} hasInk={strokes.length > 0} />
          <Bars probabilities={asked.answer?.probabilities ?? null} pale={!asked.isFinal} shown={5} />
          <Seen asked={asked} model={model} />
        </section>
        <section className="draw-say" aria-label="Say what it is">
          {now !== null ? (
            <AfterSaying now={now} />
          ) : asked.pixels !== null && (steady !== null || asked.error !== null) ? (
            <Correct
              key={revision}
              model={model}
              answer={asked.answer}
              likely={steady?.probabilities ?? {}}
              onSay={say}
            />
          ) : (
            <>
              <p className="draw-idle soft">
                {asked.pixels === null
                  ? "Once there is a drawing, say whether Emend got it right. It learns from what you say."
                  : "Lift your pen for a moment, then say whether it is right."}
              </p>
              {asked.pixels === null && <p className="draw-can-below soft small">{known(model)}</p>}
            </>
          )}
        </section>
      </div>
      <Guide model={model} />
    </>
  );
}

/** The last answer for the record: what can be clicked keeps its place while drafts come and go. */
function useSteady({ answer, isFinal, pixels }: Asked): Answer | null {
  const [steady, setSteady] = useState<Answer | null>(isFinal ? answer : null);
  const next = pixels === null ? null : isFinal ? answer : steady;
  if (next !== steady) setSteady(next);
  return next;
}

function known({ categories, champion }: Model): string {
  if (champion === null)
    return "No version is live yet. Draw all the same and say what it is: the first run learns from it.";
  const active = categories.filter(({ state }) => state === "active");
  const names = active.filter(({ id }) => champion.category_ids.includes(id)).map(({ name }) => name);
  if (names.length === 0) return "The model knows nothing yet: teach it.";
  const others = active.length - names.length; // after an undo, or learned by the next version
  const taught =
    others > 0
      ? ` ${counted(others, "category", "categories")} more ${others === 1 ? "is" : "are"} taught, and not in this version.`
      : "";
  return `Knows: ${listed(names)}.${taught} Anything else can be taught.`;
}

function listed(names: readonly string[]): string {
  const some = names.slice(0, 12).join(", ");
  return names.length > 12 ? `${some}, and ${names.length - 12} more` : some;
}

function Tools({ ask, asked }: { ask: () => void; asked: Asked }) {
  const { strokes, canUndo, canRedo } = useSketch(sketch);
  const nothing = strokes.length === 0;
  return (
    <div className="draw-tools" role="toolbar" aria-label="Drawing">
      <Tool
        name="Undo"
        keys="Control+Z"
        because={canUndo ? undefined : "nothing to undo"}
        onClick={() => sketch.undo()}
      >
        <path d="M7 5 3 9l4 4M3 9h9a5 5 0 0 1 0 10H8" />
      </Tool>
      <Tool
        name="Redo"
        keys="Control+Shift+Z"
        because={canRedo ? undefined : "nothing to redo"}
        onClick={() => sketch.redo()}
      >
        <path d="m15 5 4 4-4 4M19 9h-9a5 5 0 0 0 0 10h4" />
      </Tool>
      <Tool
        name="Clear"
        keys="Delete"
        because={nothing ? "the sheet is empty" : undefined}
        onClick={() => sketch.clear()}
      >
        <path d="M4 6h14M9 6V4h4v2m3 0-.8 13H6.800L6 6" />
      </Tool>
      <Button
        className="draw-ask"
        onClick={ask}
        aria-disabled={asked.pixels === null || asked.isFinal}
        title={
          asked.pixels === null
            ? "Ask: the sheet is empty"
            : asked.isFinal
              ? "Ask: this is the answer to the drawing as it is"
              : "Ask for the record (Ctrl+Enter)"
        }
      >
        Ask
      </Button>
    </div>
  );
}

interface ToolProps {
  name: string;
  keys: string;
  because: string | undefined;
  onClick: () => void;
  children: React.ReactNode;
}

/** Its place stays the same whether it can be pressed or not. */
function Tool({ name, keys, because, onClick, children }: ToolProps) {
  return (
    <button
      type="button"
      className="button button-quiet draw-tool"
      aria-keyshortcuts={keys}
      aria-disabled={because !== undefined}
      title={because === undefined ? `${name} (${keys.replace("Control", "Ctrl")})` : `${name}: ${because}`}
      onClick={() => because === undefined && onClick()}
    >
      <svg viewBox="0 0 22 22" aria-hidden="true">
        {children}
      </svg>
      {name}
    </button>
  );
}

interface HeadlineProps {
  asked: Asked;
  now: Said | null;
  model: Model;
  /** Something is on the sheet, if too little to ask about. */
  hasInk: boolean;
}

function Headline({ asked, now, model, hasInk }: HeadlineProps) {
  const { answer, isFinal, error, pixels } = asked;
  if (error !== null && answer === null) {
    return (
      <div className="draw-headline" role="alert">
        <p className="draw-lead">No answer</p>
        <p className="draw-error">
          {model.champion === null
            ? `No version of ${model.name} is live yet: the first run makes one. What you say is kept for it.`
            : sentence(error.message)}{" "}
          {error.isPassing ? "It is asked again by itself; your drawing stays." : ""}
        </p>
      </div>
    );
  }
  if (answer === null) {
    return (
      <div className="draw-headline">
        <p className="draw-lead">
          {pixels !== null ? "Looking" : hasInk ? "Draw a little more" : "Waiting for your pen"}
        </p>
        <p className="draw-word">
          <Word label="…" pale />
        </p>
      </div>
    );
  }
  return (
    <div className="draw-headline" aria-live="polite" aria-busy={!isFinal}>
      <p className="draw-lead">
        {now
          ? "You said"
          : isFinal
            ? `${sureness(answer.confidence)} ${percent(answer.confidence, 0)} sure`
            : "Looks like"}
      </p>
      <p className="draw-word">
        <Word label={answer.label} corrected={now?.label} pale={!isFinal && !now} />
      </p>
    </div>
  );
}

function sureness(confidence: number): string {
  if (confidence >= 0.85) return "I see this,";
  return confidence >= 0.5 ? "Probably," : "A guess,";
}

function Seen({ asked, model }: { asked: Asked; model: Model }) {
  const side = model.input.width;
  const grey = asked.pixels ?? new Uint8Array(side * side);
  const version = asked.answer === null ? model.champion?.version : asked.answer.version;
  return (
    <div className="draw-seen">
      <Pixels
        grey={grey}
        side={side}
        size={84}
        alt={`Your drawing as the model sees it, ${side} by ${side} pixels`}
      />
      <dl className="draw-facts small">
        <div>
          <dt className="soft">Sees</dt>
          <dd>
            {side} × {side} pixels
          </dd>
        </div>
        <div>
          <dt className="soft">Answer by</dt>
          <dd>
            {version === undefined ? "no version yet" : version === null ? "unknown" : `version ${version}`}
          </dd>
        </div>
        <div>
          <dt className="soft">Took</dt>
          <dd className="number">
            {asked.latencyMs === null ? "–" : `${Math.max(1, Math.round(asked.latencyMs))} ms`}
          </dd>
        </div>
      </dl>
    </div>
  );
}

function AfterSaying({ now }: { now: Said }) {
  const { sent, waiting, refused } = useOutbox();
  const isGuided = useCell(guide).subject?.key === now.key;
  const answer = sent.get(now.key);
  const isRefused = refused.some(({ statement }) => statement.key === now.key);
  return (
    <div className="draw-after">
      {answer && <ReceiptCard id={answer.correction_id} />}
      {!answer && !isRefused && (
        <p className="draw-kept">
          {waiting.length > 0 &&
            "Kept in this browser. The receipt appears here once Emend has received it. You can go on drawing."}
        </p>
      )}
      {isRefused && <p className="draw-kept">It was not accepted: see below.</p>}
      <div className="row">
        <Button kind="primary" onClick={() => sketch.clear()}>
          Draw the next
        </Button>
        {isGuided && (
          <Button onClick={() => document.getElementById("guide")?.scrollIntoView({ behavior: "smooth" })}>
            See it learn this
          </Button>
        )}
        <Button
          kind="quiet"
          onClick={() => {
            forgetUnlessBegun(now.key);
            said.set(null);
          }}
        >
          I meant something else
        </Button>
      </div>
    </div>
  );
}

function useShortcuts(ask: () => void): void {
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      if ((event.target as Element | null)?.closest("input, textarea, select, [contenteditable], dialog"))
        return;
      const key = event.key.toLowerCase();
      const withControl = event.ctrlKey || event.metaKey;
      if (withControl && key === "z") event.shiftKey ? sketch.redo() : sketch.undo();
      else if (withControl && key === "y") sketch.redo();
      else if (!withControl && (key === "delete" || key === "backspace")) sketch.clear();
      else if (withControl && key === "enter") ask();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [ask]);
}
