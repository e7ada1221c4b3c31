/**
 * A button. One that cannot work now stays reachable and says why: `because` instead of `disabled`.
 *
 *   <Button kind="primary" because={run ? `Run ${run} is under way` : undefined} onClick={retrain}>Retrain now</Button>
 */
import { type ButtonHTMLAttributes, useId } from "react";
import "./Button.css";

export interface ButtonProps extends Omit<ButtonHTMLAttributes<HTMLButtonElement>, "disabled"> {
  kind?: "primary" | "plain" | "quiet" | "danger" | undefined;
  /** Why it cannot be pressed now. */
  because?: string | undefined;
  /** What was pressed is under way: pressing again does nothing. */
  busy?: boolean | undefined;
}

export function Button({
  kind = "plain",
  because,
  busy = false,
  className = "",
  onClick,
  children,
  ...rest
}: ButtonProps) {
  const reason = useId();
  const blocked = because !== undefined;
  const button = (
    <button
      type="button"
      {...rest}
      className={`button button-${kind} ${className}`}
      aria-disabled={blocked || busy || rest["aria-disabled"]}
      aria-describedby={blocked ? reason : rest["aria-describedby"]}
      aria-busy={busy || undefined}
      onClick={(event) => {
        if (blocked || busy) event.preventDefault();
        else onClick?.(event);
      }}
    >
      {children}
    </button>
  );
  if (!blocked) return button;
  return (
    <span className="button-blocked">
      {button}
      <span id={reason} className="button-reason">
        {because}
      </span>
    </span>
  );
}
