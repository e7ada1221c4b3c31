/** An instant in the reader's own time; the whole of it on hover and for machines. `ago`: "3 minutes ago", kept true. */
import { useEffect, useState } from "react";
import { ago as agoOf, localTime, wholeTime } from "../format.ts";

export function LocalTime({ at, ago = false }: { at: string; ago?: boolean }) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!ago) return;
    const timer = setInterval(() => setNow(Date.now()), 30_000);
    return () => clearInterval(timer);
  }, [ago]);
  const date = new Date(at);
  return (
    <time dateTime={at} title={wholeTime(date)}>
      {ago ? agoOf(date, now) : localTime(date, now)}
    </time>
  );
}
