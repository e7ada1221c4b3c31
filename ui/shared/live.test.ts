// @vitest-environment node
import type { ServerResponse } from "node:http";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { HIDDEN_MS, Live, type LiveState, STALE_MS, type Transition } from "./live.ts";
import { serving } from "./test-server.ts";

// What a browser's window has and Node has not.
beforeEach(() => {
  const window = new EventTarget();
  vi.stubGlobal("addEventListener", window.addEventListener.bind(window));
  vi.stubGlobal("removeEventListener", window.removeEventListener.bind(window));
  vi.stubGlobal("dispatchEvent", window.dispatchEvent.bind(window));
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function event(id: number): string {
  const data = { id, run_id: 1, model: "doodles", stage: null, status: "running", message: "é", figures: {} };
  return `id: ${id}\ndata: ${JSON.stringify({ ...data, at: "2026-01-01T00:00:00+00:00" })}\n\n`;
}

/** A server of events that remembers who asked for what, and can write to and end its streams. */
async function source() {
  const asked: string[] = [];
  const open: ServerResponse[] = [];
  const served = await serving((request, response) => {
    asked.push(request.url ?? "");
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write("retry: 2000\n\n");
    open.push(response);
    response.on("close", () => open.splice(open.indexOf(response), 1));
  });
  return { ...served, asked, open };
}

function followed(url: string) {
  const live = new Live(`${url}/events`);
  const ids: number[] = [];
  const states: LiveState[] = [];
  const events: Transition[] = [];
  const stopReading = live.read((each) => {
    ids.push(each.id);
    events.push(each);
  });
  const stopWatching = live.watch(() => states.push(live.state));
  return {
    live,
    ids,
    states,
    events,
    stop: () => {
      stopReading();
      stopWatching();
    },
  };
}

describe("the live line", () => {
  it("hands out events in order, however they were cut on the way", async () => {
    const { url, open } = await source();
    const { ids, events, stop } = followed(url);
    await vi.waitFor(() => expect(open).toHaveLength(1));
    const bytes = Buffer.from(event(1) + event(2));
    for (const byte of [bytes.subarray(0, 100), bytes.subarray(100, 121), bytes.subarray(121)]) {
      open[0]?.write(byte);
      await new Promise(setImmediate);
    }
    await vi.waitFor(() => expect(ids).toEqual([1, 2]));
    expect(events[0]?.message).toBe("é");
    stop();
  });

  it("comes back by itself, after the last event it saw, and none comes twice", async () => {
    const { url, open, asked } = await source();
    const { ids, states, stop } = followed(url);
    await vi.waitFor(() => expect(open).toHaveLength(1));
    open[0]?.write(event(7));
    await vi.waitFor(() => expect(ids).toEqual([7]));
    open[0]?.end();
    await vi.waitFor(() => expect(asked).toEqual(["/events", "/events?after=7"]), 3000);
    await vi.waitFor(() => expect(open).toHaveLength(1));
    open[0]?.write(event(7) + event(8));
    await vi.waitFor(() => expect(ids).toEqual([7, 8]));
    expect(states).toEqual(["live", "stale", "live"]);
    stop();
  });

  it("is stale when the service is gone", async () => {
    const { url, stop: stopServer, open } = await source();
    const { live, stop } = followed(url);
    await vi.waitFor(() => expect(live.state).toBe("live"));
    expect(open).toHaveLength(1);
    stopServer();
    await vi.waitFor(() => expect(live.state).toBe("stale"));
    stop();
  });

  it("is stale when nothing was heard for longer than a heartbeat, and tries anew", async () => {
    const { url, asked } = await source();
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    const { live, states, stop } = followed(url);
    while (live.state !== "live") await new Promise(setImmediate);
    vi.advanceTimersByTime(STALE_MS - 1);
    expect(live.state).toBe("live");
    vi.advanceTimersByTime(1);
    expect(states).toContain("stale");
    while (asked.length < 2) await new Promise(setImmediate);
    stop();
  });

  it("asks at once when the network is back", async () => {
    const { url, asked } = await source();
    const { live, stop } = followed(url);
    await vi.waitFor(() => expect(live.state).toBe("live"));
    dispatchEvent(new Event("online"));
    await vi.waitFor(() => expect(asked).toHaveLength(2));
    stop();
  });

  it("lets go while its tab is not looked at, and goes on where it was", async () => {
    const { url, open, asked } = await source();
    vi.stubGlobal("document", { hidden: false });
    const look = (hidden: boolean) => {
      vi.stubGlobal("document", { hidden });
      dispatchEvent(new Event("visibilitychange"));
    };
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    const { live, ids, states, stop } = followed(url);
    while (open.length < 1) await new Promise(setImmediate);
    open[0]?.write(event(7));
    while (ids.length < 1) await new Promise(setImmediate);
    look(true);
    vi.advanceTimersByTime(HIDDEN_MS - 1);
    look(false); // a short look elsewhere
    expect(live.state).toBe("live");
    look(true);
    vi.advanceTimersByTime(HIDDEN_MS);
    while (open.length > 0) await new Promise(setImmediate);
    dispatchEvent(new Event("online"));
    look(false);
    while (asked.length < 2) await new Promise(setImmediate);
    while (live.state !== "live") await new Promise(setImmediate);
    expect(asked).toEqual(["/events", "/events?after=7"]);
    expect(states).toEqual(["live", "connecting", "live"]);
    stop();
  });

  it("does not begin in a tab that was opened behind another", async () => {
    const { url, open } = await source();
    vi.stubGlobal("document", { hidden: true });
    const { stop } = followed(url);
    expect(open).toHaveLength(0);
    vi.stubGlobal("document", { hidden: false });
    dispatchEvent(new Event("visibilitychange"));
    await vi.waitFor(() => expect(open).toHaveLength(1));
    stop();
  });

  it("lets go when nobody reads any more", async () => {
    const { url, open } = await source();
    const { live, stop } = followed(url);
    await vi.waitFor(() => expect(open).toHaveLength(1));
    stop();
    await vi.waitFor(() => expect(open).toHaveLength(0));
    expect(live.state).toBe("connecting");
  });
});
