/** StatusMark's icon in its colour, alone: only where the word stands beside it in another form. */
import { StatusMark } from "../../shared/components/StatusMark.tsx";
import "./StatusIcon.css";

export function StatusIcon({ status }: { status: string }) {
  return (
    <span className="status-icon" aria-hidden="true">
      <StatusMark status={status} hideWord />
    </span>
  );
}
