/**
 * A table that scrolls sideways within itself on a narrow screen. The caption is read aloud only, unless `showCaption`.
 *
 *   <DataTable caption="Runs" columns={[{ name: "Run", cell: (run) => run.run_id, numeric: true }]}
 *     rows={runs} rowKey={(run) => run.run_id} />
 */
import type { Key, ReactNode } from "react";
import "./DataTable.css";

export interface Column<Row> {
  name: string;
  cell: (row: Row) => ReactNode;
  /** Set to the right, with digits of one width. */
  numeric?: boolean;
  /** Names its row: read aloud with every other cell. */
  isHeader?: boolean;
}

interface Props<Row> {
  caption: string;
  showCaption?: boolean;
  columns: readonly Column<Row>[];
  rows: readonly Row[];
  rowKey: (row: Row) => Key;
}

export function DataTable<Row>({ caption, showCaption = false, columns, rows, rowKey }: Props<Row>) {
  return (
    // A region that scrolls has to be reachable with the keyboard.
    // biome-ignore lint/a11y/noNoninteractiveTabindex: see above
    <section className="table-scroll" aria-label={caption} tabIndex={0}>
      <table className="table">
        <caption className={showCaption ? undefined : "aloud"}>{caption}</caption>
        <thead>
          <tr>
            {columns.map(({ name, numeric }) => (
              <th key={name} scope="col" className={numeric ? "table-number" : undefined}>
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={rowKey(row)}>
              {columns.map(({ name, cell, numeric, isHeader }) => {
                const className = numeric ? "table-number" : undefined;
                return isHeader ? (
                  <th key={name} scope="row" className={className}>
                    {cell(row)}
                  </th>
                ) : (
                  <td key={name} className={className}>
                    {cell(row)}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
