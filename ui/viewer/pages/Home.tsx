/** The latest runs. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { gateway } from "../../shared/api/client.ts";
import { type Column, DataTable } from "../../shared/components/DataTable.tsx";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { StatusMark } from "../../shared/components/StatusMark.tsx";
import { Empty, Failed, Loading, Stale } from "../../shared/components/states.tsx";
import { count } from "../../shared/format.ts";
import { useLive } from "../../shared/live.ts";
import { asRun, type Run } from "../../shared/runs.ts";

async function asked(signal: AbortSignal): Promise<Run[]> {
  const { runs } = await gateway.get("/pipeline_runs", { query: { limit: 50 }, signal });
  return runs.map(asRun);
}

const COLUMNS: readonly Column<Run>[] = [
  { name: "Run", cell: (run) => run.run_id, isHeader: true },
  { name: "Model", cell: (run) => run.model },
  { name: "State", cell: (run) => <StatusMark status={run.status} /> },
  { name: "Started by", cell: (run) => run.trigger },
  {
    name: "New images",
    cell: (run) => (run.new_images === null ? "–" : count(run.new_images)),
    numeric: true,
  },
  { name: "Asked for", cell: (run) => <LocalTime at={run.requested_at} ago /> },
];

export function Home() {
  const queries = useQueryClient();
  useLive(() => void queries.invalidateQueries({ queryKey: ["runs"] }));
  const runs = useQuery({ queryKey: ["runs"], queryFn: ({ signal }) => asked(signal) });
  return (
    <div className="stack">
      <div className="row">
        <h1>Runs</h1>
        <Stale />
      </div>
      {runs.isPending && <Loading what="the runs" lines={6} />}
      {runs.isError && (
        <Failed what="The runs could not be loaded" error={runs.error} retry={() => void runs.refetch()} />
      )}
      {runs.data?.length === 0 && (
        <Empty title="No run yet">
          <p>The first one begins by itself when Emend starts.</p>
        </Empty>
      )}
      {runs.data && runs.data.length > 0 && (
        <DataTable caption="Runs" columns={COLUMNS} rows={runs.data} rowKey={(run) => run.run_id} />
      )}
    </div>
  );
}
