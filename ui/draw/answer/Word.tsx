/**
 * The answer as a word on paper. One that was corrected is struck out, and the right one put in above a caret, as a
 * proofreader does it.
 *
 *   <Word label="dog" />    <Word label="dog" corrected="cat" />    <Word label="cat" corrected="cat" />   (a tick)
 */
import "./Word.css";

const LONG = 20; // characters: a name in large letters should not take half the page

interface Props {
  label: string;
  corrected?: string | null | undefined;
  /** Not sure yet. */
  pale?: boolean;
  size?: "large" | "small";
}

export function Word({ label, corrected, pale = false, size = "large" }: Props) {
  const isCorrected = corrected !== undefined && corrected !== null;
  const isRight = isCorrected && corrected.toLowerCase() === label.toLowerCase();
  const isLong = Math.max(label.length, corrected?.length ?? 0) > LONG;
  return (
    <span className={`word word-${size}`} data-pale={pale || undefined} data-long={isLong || undefined}>
      {isCorrected && !isRight ? (
        <>
          <s>
            <span className="aloud">not </span>
            {label}
          </s>{" "}
          <ins>
            <span className="aloud">but </span>
            {corrected}
          </ins>
        </>
      ) : (
        <>
          {label}
          {isRight && (
            <svg viewBox="0 0 16 16" className="word-tick" role="img" aria-label="said to be right">
              <path d="M2 9.2 6 13 14 3" />
            </svg>
          )}
        </>
      )}
    </span>
  );
}
