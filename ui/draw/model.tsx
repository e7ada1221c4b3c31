/** The model that all pages speak of: chosen in one place, kept in the address (`?model=photos`), the first one else. */
import { type UseQueryResult, useQuery } from "@tanstack/react-query";
import { type ReactNode, useRef } from "react";
import { useParameter } from "../shared/address.ts";
import { type GatewayComponents, gateway } from "../shared/api/client.ts";
import { Button } from "../shared/components/Button.tsx";
import { Empty, Failed, Loading } from "../shared/components/states.tsx";
import "./model.css";

export type Model = GatewayComponents["schemas"]["ModelAnswer"];
const AGAIN_MS = 5_000;

type Models = GatewayComponents["schemas"]["ModelsAnswer"];

export function useModels(): UseQueryResult<Models> {
  return useQuery({
    queryKey: ["models"],
    queryFn: ({ signal }) => gateway.get("/models", { signal }),
    // They come by themselves: after a failure, and at the first start, when there is none yet.
    refetchInterval: ({ state }) =>
      state.data === undefined || state.data.models.length === 0 ? AGAIN_MS : false,
  });
}

/** undefined until the models are known, and for one that is not there. */
export function useModel(): Model | undefined {
  const { data } = useModels();
  const [asked] = useParameter("model");
  if (asked !== null) return data?.models.find(({ name }) => name === asked);
  return data?.models.find(canBeDrawnFor) ?? data?.models[0];
}

/** Its input is a square of ink, as the canvas makes it. */
export function canBeDrawnFor({ input }: Model): boolean {
  return input.drawing && input.mode === "L" && input.width === input.height;
}

export function ModelChoice() {
  const { data } = useModels();
  const [, setModel] = useParameter("model");
  const model = useModel();
  if (data === undefined || data.models.length < 2) return null;
  return (
    <label className="model-choice">
      <span className="soft small">Model</span>
      <select aria-label="Model" value={model?.name ?? ""} onChange={(event) => setModel(event.target.value)}>
        {model === undefined && <option value="">none</option>}
        {data.models.map(({ name }) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}

interface Props {
  /** The page's heading until its own is there. */
  title: string;
  /** Of that heading, so that its size stays when the page's own comes. */
  titleClass?: string;
  children: (model: Model) => ReactNode;
}

/** Shows its children once there is a model; else what is the matter. */
export function WithModel({ title, titleClass, children }: Props) {
  const model = useModel();
  if (model !== undefined) return children(model);
  return (
    <div className="stack">
      <h1 className={titleClass}>{title}</h1>
      <WhyNone />
    </div>
  );
}

function WhyNone() {
  const models = useModels();
  const [asked, setModel] = useParameter("model");
  const failed = useRef<Error | null>(null);
  // A question that is asked again is pending again: until there is an answer, what it said last time stays.
  if (models.error !== null) failed.current = models.error;
  if (models.data === undefined) {
    if (failed.current === null) return <Loading what="the models" lines={8} />;
    return (
      <Failed
        what="The models could not be loaded"
        error={failed.current}
        retry={() => void models.refetch()}
      />
    );
  }
  if (models.data.models.length === 0) {
    return (
      <Empty title="There is no model yet">
        <p>The first start draws its own doodles and trains one with them. That takes a few minutes.</p>
        <p>This page goes on by itself when it is there.</p>
      </Empty>
    );
  }
  return (
    <Empty title={`There is no model named “${asked}”`}>
      <p>Choose one that is there:</p>
      <div className="row">
        {models.data.models.map(({ name }) => (
          <Button key={name} onClick={() => setModel(name)}>
            {name}
          </Button>
        ))}
      </div>
    </Empty>
  );
}
