/** Whatever a run changes is asked for anew when it gets further: receipts, models, the run itself. */
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef } from "react";
import { useLive } from "../shared/live.ts";

const AT_MOST_EVERY_MS = 300;
const CHANGED_BY_A_RUN = [["receipts"], ["models"], ["run"], ["corrections"]];

export function useRefresh(): void {
  const queries = useQueryClient();
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  useLive(() => {
    if (timer.current !== undefined) return;
    timer.current = setTimeout(() => {
      timer.current = undefined;
      for (const queryKey of CHANGED_BY_A_RUN) void queries.invalidateQueries({ queryKey });
    }, AT_MOST_EVERY_MS);
  });
}
