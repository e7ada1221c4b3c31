/** Images with a word or two each, as many as fit in a row; more come with a button. */
import { useState } from "react";
import { Button } from "../../shared/components/Button.tsx";
import { Pixels } from "../../shared/components/Pixels.tsx";
import { count } from "../../shared/format.ts";
import { shownAt } from "../data.ts";
import "./ImageGrid.css";

export interface GridImage {
  key: string;
  /** As the service answered it. */
  image: string;
  alt: string;
  title: string;
  lines: readonly string[];
}

const FIRST = 24;
const MORE = 72;

interface Props {
  items: readonly GridImage[];
  /** There are more to ask for: called when all that is here is shown. */
  more?: (() => void) | undefined;
  isLoading?: boolean;
}

export function ImageGrid({ items, more, isLoading = false }: Props) {
  const [shown, setShown] = useState(FIRST);
  const rest = items.length - shown;
  return (
    <div className="stack">
      <ul className="image-grid">
        {items.slice(0, shown).map(({ key, image, alt, title, lines }) => (
          <li key={key}>
            <Pixels src={shownAt(image)} alt={alt} size={84} />
            <span className="image-grid-title" title={title} aria-hidden="true">
              {title}
            </span>
            {lines.map((line) => (
              <span key={line} className="image-grid-line" title={line} aria-hidden="true">
                {line}
              </span>
            ))}
          </li>
        ))}
      </ul>
      {(rest > 0 || more) && (
        <Button
          kind="quiet"
          busy={isLoading}
          onClick={() => {
            setShown(shown + MORE);
            if (rest < MORE) more?.();
          }}
        >
          {rest > 0 && !more ? `Show more, ${count(rest)} are left` : "Show more"}
        </Button>
      )}
    </div>
  );
}
