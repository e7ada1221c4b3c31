/** Pictures from the disk, the clipboard or the camera: what the model sees in them, and the same ways to correct it. */
import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import { gateway } from "../../shared/api/client.ts";
import { toBase64 } from "../../shared/base64.ts";
import { Button } from "../../shared/components/Button.tsx";
import { Pixels } from "../../shared/components/Pixels.tsx";
import { say as tell } from "../../shared/components/Toasts.tsx";
import { counted, percent, sentence } from "../../shared/format.ts";
import { Bars } from "../answer/Bars.tsx";
import { Word } from "../answer/Word.tsx";
import { Correct } from "../correct/Correct.tsx";
import { newKey, outbox, useOutbox } from "../correct/outbox.ts";
import { type Model, WithModel } from "../model.tsx";
import { ReceiptCard } from "../receipts/ReceiptCard.tsx";
import { tray, type Upload as Uploaded } from "../upload/tray.ts";
import "./Upload.css";

export function Upload() {
  return <WithModel title="Upload pictures">{(model) => <Page model={model} />}</WithModel>;
}

function Page({ model }: { model: Model }) {
  const all = useSyncExternalStore(tray.watch, () => tray.uploads);
  const uploads = all.filter((each) => each.model === model.name);
  const unreadable = uploads.filter((each) => each.unreadable !== null);
  const shown = uploads.filter((each) => each.unreadable === null);
  usePaste(model.name);
  return (
    <div className="stack">
      <div>
        <h1>Upload pictures</h1>
        <p className="soft">
          For <b>{model.name}</b>, which sees {model.input.width} × {model.input.height} pixels
          {model.input.mode === "RGB" ? " in colour" : " in grey"}. PNG, JPEG, WebP, and most other photos
          that this browser can show, but no vector graphics such as SVG.
        </p>
      </div>
      <DropPlace model={model.name} />
      {unreadable.length > 0 && <Unread uploads={unreadable} />}
      {shown.length > 1 && (
        <div className="row">
          <p aria-live="polite">
            {shown.filter(({ answer }) => answer !== null).length} of {counted(shown.length, "picture")}{" "}
            answered
          </p>
          <Button kind="quiet" onClick={() => tray.remove(shown.map(({ id }) => id))}>
            Remove all
          </Button>
        </div>
      )}
      <ul className="upload-list">
        {shown.map((upload) => (
          <li key={upload.id}>
            <One upload={upload} model={model} />
          </li>
        ))}
      </ul>
    </div>
  );
}

function DropPlace({ model }: { model: string }) {
  const over = useDrop(model);
  const files = useRef<HTMLInputElement>(null);
  const camera = useRef<HTMLInputElement>(null);
  const hasTouch = matchMedia("(pointer: coarse)").matches;
  const take = (input: HTMLInputElement) => {
    tray.put(input.files ?? [], model);
    input.value = ""; // the same file may come again
  };
  return (
    <div className="upload-drop" data-over={over || undefined}>
      <p className="upload-drop-words">
        {hasTouch ? "Choose pictures, or take a photo" : "Drop pictures here, or paste them"}
      </p>
      <div className="row">
        <Button kind="primary" onClick={() => files.current?.click()}>
          Choose pictures
        </Button>
        {hasTouch && <Button onClick={() => camera.current?.click()}>Take a photo</Button>}
      </div>
      <input
        ref={files}
        type="file"
        accept="image/*"
        multiple
        hidden
        aria-label="Pictures"
        onChange={(event) => take(event.target)}
      />
      <input
        ref={camera}
        type="file"
        accept="image/*"
        capture="environment"
        hidden
        aria-label="Photo"
        onChange={(event) => take(event.target)}
      />
    </div>
  );
}

/** Anywhere in the window: a file dropped beside the place would make the browser leave the page. True while one is over it. */
function useDrop(model: string): boolean {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const dragged = (event: DragEvent) => {
      event.preventDefault();
      setOver(true);
    };
    const left = (event: DragEvent) => {
      if (event.relatedTarget === null) setOver(false);
    };
    const dropped = (event: DragEvent) => {
      event.preventDefault();
      setOver(false);
      tray.put(event.dataTransfer?.files ?? [], model);
    };
    addEventListener("dragover", dragged);
    addEventListener("dragleave", left);
    addEventListener("drop", dropped);
    return () => {
      removeEventListener("dragover", dragged);
      removeEventListener("dragleave", left);
      removeEventListener("drop", dropped);
    };
  }, [model]);
  return over;
}

function usePaste(model: string): void {
  useEffect(() => {
    const pasted = (event: ClipboardEvent) => {
      const files = event.clipboardData?.files ?? [];
      if (files.length > 0) tray.put(files, model);
    };
    addEventListener("paste", pasted);
    return () => removeEventListener("paste", pasted);
  }, [model]);
}

function Unread({ uploads }: { uploads: readonly Uploaded[] }) {
  return (
    <section className="upload-unread" role="alert">
      <p>
        <b>{counted(uploads.length, "file")} cannot be read</b> and {uploads.length === 1 ? "was" : "were"}{" "}
        left out. Save {uploads.length === 1 ? "it" : "them"} as PNG or JPEG and choose{" "}
        {uploads.length === 1 ? "it" : "them"} again.
      </p>
      <ul>
        {uploads.map(({ id, name, unreadable }) => (
          <li key={id}>
            <b>{name}</b>: {unreadable}
          </li>
        ))}
      </ul>
      <Button onClick={() => tray.remove(uploads.map(({ id }) => id))}>Close</Button>
    </section>
  );
}

function One({ upload, model }: { upload: Uploaded; model: Model }) {
  const { id, name, preview, answer, error, said } = upload;
  return (
    <article className="upload" aria-label={name}>
      <div className="upload-pictures">
        <figure>
          <img className="upload-original" src={preview} alt={name} width={132} height={132} />
          <figcaption className="soft small">yours</figcaption>
        </figure>
        <figure>
          {answer?.prediction_id ? (
            <Pixels
              src={gateway.url("/predictions/{prediction_id}/image", {
                path: { prediction_id: answer.prediction_id },
              })}
              alt={`${name} as the model sees it`}
              size={132}
            />
          ) : (
            <span className="upload-later" />
          )}
          <figcaption className="soft small">
            {error && !answer
              ? "not seen by the model yet"
              : `what the model sees, ${model.input.width} × ${model.input.height} pixels`}
          </figcaption>
        </figure>
      </div>
      <div className="upload-answer">
        <p className="upload-name soft small" title={name}>
          {name}
        </p>
        <p className="upload-word">
          {answer ? (
            <>
              <Word label={answer.label} corrected={said?.label} size="small" />{" "}
              <span className="upload-sure soft">
                {said !== null && said.label !== answer.label && "it was "}
                {percent(answer.confidence, 0)} sure
                {answer.version !== null && `, version ${answer.version}`}
              </span>
            </>
          ) : error ? (
            <b>No answer</b>
          ) : (
            <span className="soft">Looking</span>
          )}
        </p>
        {error && !answer ? (
          <div className="upload-error" role="alert">
            <p>{sentence(error.message)}</p>
            <Button onClick={() => tray.again(id)}>Ask again</Button>
          </div>
        ) : (
          <Bars probabilities={answer?.probabilities ?? null} shown={3} />
        )}
      </div>
      <div className="upload-say">
        <Say upload={upload} model={model} />
        <Button kind="quiet" onClick={() => tray.remove([id])}>
          Remove<span className="aloud"> {name}</span>
        </Button>
      </div>
    </article>
  );
}

function Say({ upload, model }: { upload: Uploaded; model: Model }) {
  const [open, setOpen] = useState(false);
  const { sent } = useOutbox();
  const { id, data, answer, said } = upload;
  const say = async (label: string) => {
    if (data === null) return;
    const key = newKey();
    tray.say(id, { key, label });
    let image: string;
    try {
      image = toBase64(new Uint8Array(await data.arrayBuffer()));
    } catch {
      tray.say(id, null); // the file is not what it was when it was chosen, or gone
      tell(`${upload.name} has changed since it was chosen. Choose it again.`, "bad");
      return;
    }
    await outbox.add({
      key,
      model: upload.model,
      label,
      image,
      predictionId: answer?.prediction_id ?? null,
      source: "correction",
    });
  };
  if (said !== null) {
    const receipt = sent.get(said.key);
    return (
      <>
        {receipt ? <ReceiptCard id={receipt.correction_id} /> : <p className="soft">Kept in this browser.</p>}
        <div className="row">
          <Button
            kind="quiet"
            onClick={() => {
              setOpen(true);
              tray.say(id, null);
            }}
          >
            I meant something else
          </Button>
        </div>
      </>
    );
  }
  if (data === null) return null;
  if (open || answer === null) {
    return (
      <Correct
        model={model}
        answer={answer}
        likely={answer?.probabilities ?? {}}
        onSay={(label) => void say(label)}
        onBack={answer === null ? undefined : () => setOpen(false)}
      />
    );
  }
  return (
    <div className="row">
      <Button onClick={() => void say(answer.label)}>Right</Button>
      <Button onClick={() => setOpen(true)}>No, it is …</Button>
    </div>
  );
}
