import { Link } from "wouter";
import { withKept } from "../address.ts";

export function NotFound() {
  return (
    <div className="stack">
      <h1>There is no such page</h1>
      <p>
        <Link href={withKept("/")}>To the first page</Link>
      </p>
    </div>
  );
}
