/** The same picture through two versions, beside each other. Nothing of it is recorded. */
import { type UseQueryResult, useQuery } from "@tanstack/react-query";
import { ApiError, gateway } from "../../shared/api/client.ts";
import { toBase64 } from "../../shared/base64.ts";
import { percent, sentence } from "../../shared/format.ts";
import type { Answer } from "../drawing/asker.ts";
import type { Model } from "../model.tsx";
import { Bars } from "./Bars.tsx";
import { pixelsAt } from "./pixels.ts";
import { Word } from "./Word.tsx";
import "./Replay.css";

interface Props {
  model: Model;
  /** Address of the picture as the model sees it; its name in the cache. */
  image: string;
  label: string;
  before: number;
  after: number;
  /** Beside the earlier and the later version. */
  beforeIs?: string;
  afterIs?: string;
}

export function Replay({ model, image, label, before, after, beforeIs = "before", afterIs = "now" }: Props) {
  return (
    <div className="replay">
      <Side model={model} image={image} label={label} version={before} name={beforeIs} />
      <Side model={model} image={image} label={label} version={after} name={afterIs} />
    </div>
  );
}

interface SideProps extends Pick<Props, "model" | "image" | "label"> {
  version: number;
  name: string;
}

function Side({ model, image, label, version, name }: SideProps) {
  const answer = useReplay(model, image, version);
  return (
    <section className="replay-side" aria-label={`Version ${version}`}>
      <p className="soft small">
        Version {version}, {name}
      </p>
      {answer.isError ? (
        <p className="replay-failed">{why(answer.error, version)}</p>
      ) : (
        <>
          <p className="replay-word">
            {answer.data ? (
              <>
                <Word
                  label={answer.data.label}
                  corrected={isSame(answer.data.label, label) ? label : null}
                  size="small"
                />{" "}
                <span className="soft number">{percent(answer.data.confidence, 0)}</span>
              </>
            ) : (
              <span className="soft">Asking version {version}…</span>
            )}
          </p>
          <Bars probabilities={answer.data?.probabilities ?? null} shown={3} />
        </>
      )}
    </section>
  );
}

export function useReplay(model: Model, image: string, version: number): UseQueryResult<Answer> {
  return useQuery({
    queryKey: ["replay", image, version],
    staleTime: Number.POSITIVE_INFINITY,
    queryFn: async ({ signal }): Promise<Answer> => {
      const pixels = await pixelsAt(image, model.input, signal);
      return (await gateway.post("/invocations/", {
        body: { image: toBase64(pixels), model: model.name, draft: false, version },
        signal,
      })) as Answer;
    },
  });
}

function why(error: Error, version: number): string {
  if (error instanceof ApiError && error.status === 404) {
    return `Version ${version} can no longer be asked: its weights were removed.`;
  }
  return sentence(error.message);
}

function isSame(one: string, other: string): boolean {
  return one.toLowerCase() === other.toLowerCase();
}
