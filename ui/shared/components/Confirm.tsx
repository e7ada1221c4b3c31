/**
 * Asks before something that cannot be taken back lightly, and says what will happen.
 *
 *   const [asking, setAsking] = useState(false);
 *   <Confirm open={asking} title="Roll back to version 6?" confirm="Roll back" onConfirm={go}
 *     onClose={() => setAsking(false)}>Version 6 answers again within seconds. ...</Confirm>
 */
import { type ReactNode, useEffect, useId, useRef } from "react";
import { sentence } from "../format.ts";
import { Button } from "./Button.tsx";
import "./Confirm.css";

interface Props {
  open: boolean;
  title: string;
  /** The word on the button: what it does, not "OK". */
  confirm: string;
  kind?: "primary" | "danger";
  /** The word on the button that leaves all as it is. */
  keep?: string;
  busy?: boolean;
  /** What went wrong when it was tried. */
  error?: Error | null;
  onConfirm: () => void;
  onClose: () => void;
  children: ReactNode;
}

export function Confirm({
  open,
  title,
  confirm,
  kind = "primary",
  keep = "Cancel",
  busy,
  error,
  onConfirm,
  onClose,
  children,
}: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const element = dialog.current;
    if (element === null || element.open === open) return;
    if (open) element.showModal();
    else element.close();
  }, [open]);
  return (
    <dialog ref={dialog} className="confirm" aria-labelledby={id} onClose={onClose}>
      {open && (
        <div className="stack">
          <h2 id={id}>{title}</h2>
          <div className="stack">{children}</div>
          {error && <p role="alert">{sentence(error.message)}</p>}
          <div className="row confirm-buttons">
            <Button onClick={onClose}>{keep}</Button>
            <Button kind={kind} busy={busy} onClick={onConfirm}>
              {confirm}
            </Button>
          </div>
        </div>
      )}
    </dialog>
  );
}
