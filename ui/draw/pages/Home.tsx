/** The models there are, until the drawing page takes this place. */
import { useQuery } from "@tanstack/react-query";
import { gateway } from "../../shared/api/client.ts";
import { Card } from "../../shared/components/Card.tsx";
import { Figure } from "../../shared/components/Figure.tsx";
import { StatusMark } from "../../shared/components/StatusMark.tsx";
import { Empty, Failed, Loading } from "../../shared/components/states.tsx";
import { count } from "../../shared/format.ts";

export function Home() {
  const models = useQuery({
    queryKey: ["models"],
    queryFn: ({ signal }) => gateway.get("/models", { signal }),
  });
  return (
    <div className="stack">
      <h1>Models</h1>
      {models.isPending && <Loading what="the models" lines={4} />}
      {models.isError && (
        <Failed
          what="The models could not be loaded"
          error={models.error}
          retry={() => void models.refetch()}
        />
      )}
      {models.data?.models.length === 0 && (
        <Empty title="There is no model yet">
          <p>The first start draws its starter doodles and trains one. That takes a few minutes.</p>
        </Empty>
      )}
      <div className="tiles">
        {models.data?.models.map((model) => (
          <Card
            key={model.name}
            title={model.name}
            actions={
              model.champion && (
                <StatusMark status="live" word={`Version ${model.champion.version} is live`} />
              )
            }
          >
            <dl className="figures">
              <Figure name="Categories" value={count(model.categories.length)} />
              <Figure
                name="Corrections waiting"
                value={count(model.corrections_waiting)}
                note={`${count(model.corrections_needed)} more until a run`}
              />
            </dl>
          </Card>
        ))}
      </div>
    </div>
  );
}
