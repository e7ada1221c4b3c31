import { Link } from "wouter";
import { withKept } from "../address.ts";
import { Empty } from "./states.tsx";

export function NotFound() {
  return (
    <div className="stack">
      <h1>Nothing is here</h1>
      <Empty title="There is no such page">
        <p>Perhaps the address was cut off.</p>
        <Link href={withKept("/")}>Back to the start</Link>
      </Empty>
    </div>
  );
}
