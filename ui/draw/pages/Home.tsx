/** The models there are, until the drawing page takes this place. */
import { useQuery } from "@tanstack/react-query";
import { gateway } from "../../shared/api/client.ts";

export function Home() {
  const models = useQuery({
    queryKey: ["models"],
    queryFn: ({ signal }) => gateway.get("/models", { signal }),
  });
  return (
    <div className="stack">
      <h1>Models</h1>
      {models.isPending && <p>Loading</p>}
      {models.isError && <p role="alert">{models.error.message}</p>}
      <ul>
        {models.data?.models.map((model) => (
          <li key={model.name}>
            {model.name}: {model.categories.length} categories,{" "}
            {model.champion ? `version ${model.champion.version} is live` : "no version yet"},{" "}
            {model.corrections_waiting} corrections wait
          </li>
        ))}
      </ul>
    </div>
  );
}
