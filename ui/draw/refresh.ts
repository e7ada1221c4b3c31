/** What a run or a correction changes is asked for anew when it happened: receipts, models, the run itself. */
import { useQueryClient } from "@tanstack/react-query";
import { useCallback, useEffect, useRef } from "react";
import { useLive } from "../shared/live.ts";
import { useOutbox } from "./correct/outbox.ts";

const AT_MOST_EVERY_MS = 300;
const CHANGED = [["receipts"], ["models"], ["run"]];

export function useRefresh(): void {
  const queries = useQueryClient();
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  const refresh = useCallback(() => {
    if (timer.current !== undefined) return;
    timer.current = setTimeout(() => {
      timer.current = undefined;
      for (const queryKey of CHANGED) void queries.invalidateQueries({ queryKey });
    }, AT_MOST_EVERY_MS);
  }, [queries]);
  useLive(({ status }) => {
    if (status !== "epoch") refresh(); // changes nothing that is shown here, and comes often
  });
  const count = useOutbox().sent.size;
  useEffect(() => {
    if (count > 0) refresh();
  }, [count, refresh]);
}
