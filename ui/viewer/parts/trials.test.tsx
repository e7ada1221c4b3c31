import { QueryClientProvider } from "@tanstack/react-query";
import { fireEvent, render, screen, waitFor, within } from "@testing-library/react";
import type { ReactNode } from "react";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Toasts } from "../../shared/components/Toasts.tsx";
import { minus } from "../../shared/format.ts";
import { makeQueryClient } from "../../shared/queries.ts";
import type { Trial } from "../data.ts";
import { heading } from "../pages/Versions.tsx";
import { bearing } from "../trials.ts";
import { RollBack } from "./actions.tsx";
import { EndedTrials, OpenTrial } from "./Trials.tsx";
import { EndTrial, Try, wholePercent } from "./trying.tsx";

const canary: Trial = {
  id: 3,
  model: "doodles",
  kind: "canary",
  version: 7,
  champion: 6,
  percent: 10,
  started_by: "anna",
  reason: "is it as good?",
  started_at: "2026-11-21T03:04:10+00:00",
  ended_at: null,
  outcome: null,
  ended_because: null,
  images: 1200,
  agreement: 0.9642,
  errors: 0,
  champion_errors: 0,
  skipped: 0,
  p50_ms: 3,
  p95_ms: 8,
  champion_p50_ms: 3,
  champion_p95_ms: 6,
  latest: { images: 1200, errors: 0, champion_errors: 0, p95_ms: 8, champion_p95_ms: 6 },
};
const shadow: Trial = { ...canary, kind: "shadow", percent: 100 };
const ended: Trial = {
  ...canary,
  ended_at: "2026-11-21T05:09:10+00:00",
  outcome: "ended",
  ended_because: "seen enough",
};
const lately = (latest: Partial<Trial["latest"]>, trial = canary): Trial => ({
  ...trial,
  latest: { ...trial.latest, ...latest },
});
const plain = (text: string | null | undefined) => text?.replaceAll("\u00a0", " ");

/** What the gateway answers now, and what it was asked to change. */
let trials: Trial[] = [];
let asked: [path: string, body: unknown][] = [];
let refuses: string | null = null;
let isPromoting = false;

beforeEach(() => {
  [trials, asked, refuses, isPromoting] = [[], [], null, false];
  HTMLDialogElement.prototype.showModal = function () {
    this.open = true;
  };
  HTMLDialogElement.prototype.close = function () {
    this.open = false;
  };
  vi.stubGlobal("fetch", async (path: string, init: RequestInit) => {
    if (init.method === "GET") return Response.json({ trials });
    asked.push([path, JSON.parse(String(init.body))]);
    if (refuses) return Response.json({ error: { code: "conflict", message: refuses } }, { status: 409 });
    if (isPromoting)
      return Response.json(
        { error: { code: "promotion_under_way", message: "try again in a moment" } },
        { status: 409 },
      );
    const over = trials.find(({ ended_at }) => ended_at === null);
    if (path.endsWith("/rollback") && JSON.parse(String(init.body)).version === canary.version && !over)
      return Response.json({ error: { code: "conflict", message: "neither" } }, { status: 409 });
    return Response.json({
      ended_trial: over?.kind ?? null,
      version: over ? 6 : 5,
      replaced_version: over ? 7 : 6,
    });
  });
});
afterEach(() => vi.unstubAllGlobals());

function show(what: ReactNode) {
  return render(
    <QueryClientProvider client={makeQueryClient()}>
      {what}
      <Toasts />
    </QueryClientProvider>,
  );
}

describe("what the figures mean", () => {
  test.each([
    [lately({ images: 0 }), "early", /No image has been compared yet/],
    [lately({ images: 40 }), "early", /No answer failed. How fast .* from 200 images on; 40 so far/],
    [canary, "fine", /hardly slower/],
    [lately({ p95_ms: 16 }), "near", /^95 of 100 .* 16 ms, .* 6 ms. At more than 22 ms it goes back/],
    [lately({ p95_ms: 24 }), "beyond", /^It goes back by itself in a moment: 95 of 100/],
    [lately({ errors: 18 }), "near", /^18 of its latest 1,200 answers failed, and 0 of version 6’s. At 2 %/],
    [lately({ errors: 30 }), "beyond", /^It goes back by itself in a moment: 30 of its latest 1,200/],
    [lately({ errors: 30, champion_errors: 30 }), "fine", /hardly slower/],
    [lately({ images: 10, errors: 2 }), "early", /^2 of its latest 10 answers failed/],
    [lately({ errors: 30 }, shadow), "beyond", /^A canary would go back by itself/],
    [lately({ p95_ms: 16 }, shadow), "near", /a canary would go back by itself/],
    [{ ...canary, images: 1_000_000, errors: 3_000 }, "fine", /hardly slower/],
  ])("case %#", (trial, tone, words) => {
    const found = bearing(trial);
    expect([found.tone, plain(found.words)]).toEqual([tone, expect.stringMatching(words)]);
  });

  test("all of it is shown, and how old it is when it is old", () => {
    const at = Date.parse("2026-11-21T03:30:00+00:00");
    show(
      <OpenTrial trial={{ ...canary, skipped: 12 }} version={null} isRegistryAway={false} oldSince={at} />,
    );
    const panel = screen.getByRole("region", { name: "What is being tried out" });
    const said = plain(panel.textContent);
    for (const part of [
      "Version 7 answers 10 % of the images",
      "by anna: is it as good?",
      "1,200",
      "96.4 %",
      "Fine",
    ])
      expect(said).toContain(part);
    expect(said).toContain("12 left out");
    expect(said).toContain("these figures are from");
    expect(within(panel).getByRole("row", { name: /95 of 100/ }).textContent).toContain("8\u00a0ms6\u00a0ms");
    expect(within(panel).getByRole("button", { name: "Promote the canary, version 7" })).toBeTruthy();
  });

  test("of twenty that have ended four are shown at first, with how they ended and why", () => {
    show(<EndedTrials trials={Array.from({ length: 20 }, (_, id) => ({ ...ended, id }))} />);
    expect(screen.getAllByRole("listitem")).toHaveLength(4);
    expect(plain(screen.getAllByRole("listitem")[0]?.textContent)).toMatch(
      /^Version 7 as a canaryEnded.*, for 2 h 05 min · 10 % · 1,200 images compared, 96.4 % alikeseen enough$/,
    );
    fireEvent.click(screen.getByRole("button", { name: "Show all 20" }));
    expect(screen.getAllByRole("listitem")).toHaveLength(20);
  });

  test("none that have ended: nothing", () => {
    show(<EndedTrials trials={[]} />);
    expect(screen.queryByText("What was tried out")).toBeNull();
  });

  test("the ledger tells a trial in words, not as a promotion that failed", () => {
    const entry = { version: 7, outcome: "reverted" };
    expect(heading({ ...entry, action: "canary" })).toBe("Version 7 was tried out as a canary");
    expect(heading({ ...entry, action: "shadow" })).toBe("Version 7 was tried out as a shadow");
    expect(heading({ ...entry, action: "promote" })).toBe("Version 7 did not go live");
  });

  test("a minus is one, a hyphen stays", () => {
    expect(minus("82 % (-1.6, 95 % CI -2.5 to -0.7), run-12 of 2026-11-21")).toBe(
      "82 % (−1.6, 95 % CI −2.5 to −0.7), run-12 of 2026-11-21",
    );
  });
});

describe("trying out", () => {
  const button = <Try model="doodles" version={7} live={6} trial={null} isRegistryAway={false} />;

  test("asks for kind, share and reason, says what will happen, and does it", async () => {
    show(button);
    fireEvent.click(screen.getByRole("button", { name: "Try out version 7" }));
    expect(plain(screen.getByRole("dialog").textContent)).toContain("is asked about copies of all images");
    fireEvent.click(screen.getByRole("radio", { name: /canary/ }));
    const percent = screen.getByLabelText("Percent of the images");
    expect((percent as HTMLInputElement).value).toBe("10");
    fireEvent.change(percent, { target: { value: "25" } });
    expect(plain(screen.getByRole("dialog").textContent)).toContain("version 7 answers 25 % of the images");
    fireEvent.click(screen.getByRole("button", { name: "Start the canary" }));
    expect(await screen.findByText("Version 7 is tried out as a canary")).toBeTruthy();
    expect(asked).toEqual([
      ["api/models/doodles/canary", { version: 7, percent: 25, reason: "asked for on the page" }],
    ]);
  });

  test("a share that is none, and a refusal, are said in the dialog", async () => {
    show(button);
    fireEvent.click(screen.getByRole("button", { name: "Try out version 7" }));
    fireEvent.change(screen.getByLabelText("Percent of the images"), { target: { value: "0" } });
    fireEvent.click(screen.getByRole("button", { name: "Start the shadow" }));
    expect((await screen.findByRole("alert")).textContent).toMatch(/whole number from 1 to 100/);
    expect(asked).toEqual([]);
    refuses = "version 4 is a canary of doodles already";
    fireEvent.change(screen.getByLabelText("Percent of the images"), { target: { value: "50" } });
    fireEvent.click(screen.getByRole("button", { name: "Start the shadow" }));
    await waitFor(() =>
      expect(screen.getByRole("alert").textContent).toBe("Version 4 is a canary of doodles already."),
    );
  });

  test.each([
    ["1", 1],
    ["100", 100],
    ["", null],
    ["101", null],
    ["2.5", null],
  ])("%j percent", (written, number) => expect(wholePercent(written)).toBe(number));

  test("waits for the one under way", () => {
    show(<Try model="doodles" version={5} live={6} trial={canary} isRegistryAway={false} />);
    expect(screen.getByText("Version 7 is being tried out")).toBeTruthy();
    fireEvent.click(screen.getByRole("button", { name: "Try out version 5" }));
    expect(screen.queryByRole("dialog")).toBeNull();
  });
});

describe("ending", () => {
  function end() {
    show(<EndTrial trial={canary} />);
    fireEvent.click(screen.getByRole("button", { name: "End the canary of version 7" }));
    fireEvent.click(screen.getByRole("button", { name: "End the canary" }));
  }

  test("says what ended and what stays live", async () => {
    trials = [canary];
    end();
    expect(await screen.findByText("The canary of version 7 has ended; version 6 stays live")).toBeTruthy();
    expect(asked).toEqual([["api/models/doodles/rollback", { reason: "ended on the page", version: 7 }]]);
  });

  test("one that ended by itself meanwhile takes nothing else with it", async () => {
    trials = [{ ...canary, ended_at: "2026-11-21T05:00:00+00:00", outcome: "failed" }];
    end();
    expect(await screen.findByText(/had ended already; nothing was changed/)).toBeTruthy();
  });

  test("one that could not be ended just now is said to go on", async () => {
    [trials, isPromoting] = [[canary], true];
    end();
    expect((await screen.findByRole("alert")).textContent).toBe("Try again in a moment.");
    expect(screen.getByRole("dialog")).toBeTruthy();
  });

  test("a rollback says that it ends the canary first, and that it did", async () => {
    trials = [canary];
    show(<RollBack model="doodles" live={6} previous={5} />);
    fireEvent.click(screen.getByRole("button", { name: "Roll back: doodles" }));
    expect(await screen.findByText(/A rollback ends the canary of version 7 first/)).toBeTruthy();
    fireEvent.click(screen.getByRole("button", { name: "End the canary" }));
    expect(await screen.findByText("The canary of version 7 has ended; version 6 stays live")).toBeTruthy();
  });

  test("a rollback without one is as it was", async () => {
    show(<RollBack model="doodles" live={6} previous={5} />);
    fireEvent.click(screen.getByRole("button", { name: "Roll back: doodles" }));
    fireEvent.click(screen.getByRole("button", { name: "Roll back" }));
    expect(await screen.findByText("Version 5 is live again")).toBeTruthy();
  });
});
