/** What both apps begin with: cache, addresses after the `#`, one error boundary. */
import { QueryClientProvider, useQueryClient } from "@tanstack/react-query";
import { Component, type ReactNode, StrictMode, useEffect, useRef } from "react";
import { createRoot } from "react-dom/client";
import { Router } from "wouter";
import { useHashPath, useHashSearch } from "./address.ts";
import { keepFocus } from "./focus.ts";
import { useLiveState } from "./live.ts";
import { makeQueryClient } from "./queries.ts";
import "./styles/base.css";

export function start(app: ReactNode): void {
  const root = document.getElementById("root");
  if (root === null) throw new Error("the page has no #root");
  keepFocus(root);
  createRoot(root).render(
    <StrictMode>
      <Broken>
        <QueryClientProvider client={makeQueryClient()}>
          <Router hook={useHashPath} searchHook={useHashSearch}>
            {app}
          </Router>
        </QueryClientProvider>
      </Broken>
    </StrictMode>,
  );
}

/** Asks for everything shown once more when the live line is back: something may have happened meanwhile. */
export function FreshAfterStale() {
  const state = useLiveState();
  const wasLive = useRef(false);
  const queries = useQueryClient();
  useEffect(() => {
    if (state !== "live") return;
    if (wasLive.current) void queries.invalidateQueries();
    wasLive.current = true;
  }, [state, queries]);
  return null;
}

class Broken extends Component<{ children: ReactNode }, { error: Error | null }> {
  override state: { error: Error | null } = { error: null };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  override render() {
    if (this.state.error === null) return this.props.children;
    return (
      <main className="shell-main stack">
        <h1>This page broke</h1>
        <p>It is our mistake, not yours; nothing you sent is lost. It said: {this.state.error.message}</p>
        <p>
          <a href="./">Load it anew</a>
        </p>
      </main>
    );
  }
}
