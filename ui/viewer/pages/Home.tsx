/** The latest runs. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { gateway } from "../../shared/api/client.ts";
import { useLive, useLiveState } from "../../shared/live.ts";

export function Home() {
  const queries = useQueryClient();
  const state = useLiveState();
  useLive(() => void queries.invalidateQueries({ queryKey: ["runs"] }));
  const runs = useQuery({
    queryKey: ["runs"],
    queryFn: ({ signal }) => gateway.get("/pipeline_runs", { query: { limit: 50 }, signal }),
  });
  return (
    <div className="stack">
      <h1>Runs</h1>
      <p className="soft">
        {state === "live" ? "Live" : state === "stale" ? "Not live just now" : "Connecting"}
      </p>
      {runs.isPending && <p>Loading</p>}
      {runs.isError && <p role="alert">{runs.error.message}</p>}
      <ul>
        {runs.data?.runs.map((run) => (
          <li key={run.run_id}>
            Run {run.run_id} of {run.model}: {run.status}
            {run.message && `. ${run.message}`}
          </li>
        ))}
      </ul>
    </div>
  );
}
