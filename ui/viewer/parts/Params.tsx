/** The parameters a run trained with: what changed since the run before, and all of them. */
import { Card } from "../../shared/components/Card.tsx";
import { DataTable } from "../../shared/components/DataTable.tsx";
import type { Report } from "../data.ts";
import "./Params.css";

interface Props {
  params: Record<string, unknown>;
  changed: Report["params_changed"];
  /** Of the model's home: what the run trained on and with. */
  commit: string | null;
}

export function Params({ params, changed, commit }: Props) {
  const all = flat(params);
  return (
    <Card title="Parameters">
      {changed === null ? (
        <p className="soft">There is no run before it to compare with.</p>
      ) : changed.length === 0 ? (
        <p className="soft">The same as in the run before.</p>
      ) : (
        <ul className="params-changed">
          {changed.map(({ key, before, after }) => (
            <li key={key}>
              <code>{key}</code>
              <span>
                <del>{written(before)}</del> <span aria-hidden="true">→</span> <ins>{written(after)}</ins>
              </span>
            </li>
          ))}
        </ul>
      )}
      <details>
        <summary>All {all.length} parameters</summary>
        <DataTable
          caption="Parameters"
          rows={all}
          rowKey={([key]) => key}
          columns={[
            { name: "Name", cell: ([key]) => <code>{key}</code>, isHeader: true },
            { name: "Value", cell: ([, value]) => <code>{written(value)}</code> },
          ]}
        />
      </details>
      {commit && (
        <p className="small soft">
          Kept with its data in the model’s home, in commit <code>{commit.slice(0, 10)}</code>.
        </p>
      )}
    </Card>
  );
}

export function flat(params: Record<string, unknown>, before = ""): [string, unknown][] {
  return Object.entries(params).flatMap(([key, value]): [string, unknown][] =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? flat(value as Record<string, unknown>, `${before}${key}.`)
      : [[before + key, value]],
  );
}

export function written(value: unknown): string {
  if (value === null || value === undefined) return "none";
  return typeof value === "string" ? value : JSON.stringify(value);
}
