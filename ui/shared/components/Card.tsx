import { type ReactNode, useId } from "react";
import "./Card.css";

interface Props {
  title?: ReactNode;
  /** Beside the title: buttons, a state. */
  actions?: ReactNode;
  /** h2 unless told otherwise. */
  level?: 2 | 3;
  children: ReactNode;
}

export function Card({ title, actions, level = 2, children }: Props) {
  const id = useId();
  const Heading = `h${level}` as const;
  return (
    <section className="card" aria-labelledby={title === undefined ? undefined : id}>
      {(title !== undefined || actions !== undefined) && (
        <div className="card-head">
          {title !== undefined && <Heading id={id}>{title}</Heading>}
          {actions !== undefined && <div className="row">{actions}</div>}
        </div>
      )}
      {children}
    </section>
  );
}
