import { act, fireEvent, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Router } from "wouter";
import { useHashPath, useHashSearch } from "../address.ts";
import { ApiError } from "../api/client.ts";
import { Bar } from "./Bar.tsx";
import { Button } from "./Button.tsx";
import { Confirm } from "./Confirm.tsx";
import { DataTable } from "./DataTable.tsx";
import { LocalTime } from "./LocalTime.tsx";
import { Shell } from "./Shell.tsx";
import { StatusMark } from "./StatusMark.tsx";
import { Failed } from "./states.tsx";
import { SHOWN_MS, say, Toasts } from "./Toasts.tsx";

afterEach(() => vi.useRealTimers());

describe("Button", () => {
  it("does what it says", () => {
    const pressed = vi.fn();
    render(<Button onClick={pressed}>Retrain now</Button>);
    fireEvent.click(screen.getByRole("button", { name: "Retrain now" }));
    expect(pressed).toHaveBeenCalledOnce();
  });

  it("that cannot work says why, stays reachable, and does nothing", () => {
    const pressed = vi.fn();
    render(
      <Button onClick={pressed} because="Run 7 is under way">
        Retrain now
      </Button>,
    );
    const button = screen.getByRole("button", { name: "Retrain now" });
    fireEvent.click(button);
    expect(pressed).not.toHaveBeenCalled();
    expect(button.hasAttribute("disabled")).toBe(false);
    expect(button.getAttribute("aria-disabled")).toBe("true");
    expect(document.getElementById(button.getAttribute("aria-describedby") ?? "")?.textContent).toBe(
      "Run 7 is under way",
    );
  });

  it("keeps what its page says of it", () => {
    render(<Button aria-disabled>Ask</Button>);
    expect(screen.getByRole("button").getAttribute("aria-disabled")).toBe("true");
  });

  it("pressed twice while busy sends no form", () => {
    const sent = vi.fn((event: React.FormEvent) => event.preventDefault());
    render(
      <form onSubmit={sent}>
        <Button type="submit" busy>
          Send
        </Button>
      </form>,
    );
    fireEvent.click(screen.getByRole("button"));
    expect(sent).not.toHaveBeenCalled();
  });
});

describe("StatusMark", () => {
  it("says its word also when only its icon is shown", () => {
    render(<StatusMark status="quarantined" hideWord />);
    expect(screen.getByText("Set aside").className).toBe("aloud");
  });

  it("shows a state it does not know as it is", () => {
    render(<StatusMark status="toString" />);
    expect(screen.getByText("toString")).toBeDefined();
  });
});

describe("Bar", () => {
  it("says aloud what it shows", () => {
    render(<Bar name="cat" share={0.714} interval={[0.66, 0.76]} before={0.64} />);
    expect(screen.getByText("71.4 %, 95 % interval 66.0 % to 76.0 %, before 64.0 %")).toBeDefined();
  });
});

describe("DataTable", () => {
  it("names its columns and rows", () => {
    const columns = [
      { name: "Run", cell: (row: { id: number }) => row.id, isHeader: true },
      { name: "Double", cell: (row: { id: number }) => 2 * row.id, numeric: true },
    ];
    render(<DataTable caption="Runs" columns={columns} rows={[{ id: 4 }]} rowKey={(row) => row.id} />);
    expect(screen.getByRole("table", { name: "Runs" })).toBeDefined();
    expect(screen.getByRole("columnheader", { name: "Double" })).toBeDefined();
    expect(screen.getByRole("rowheader", { name: "4" })).toBeDefined();
    expect(screen.getByRole("cell", { name: "8" })).toBeDefined();
  });
});

describe("Failed", () => {
  it("says what, why, under which request, and tries again", () => {
    const again = vi.fn();
    const error = new ApiError(503, "unavailable", "The database is away.", null, "r-77");
    render(<Failed what="The runs could not be loaded" error={error} retry={again} />);
    expect(screen.getByRole("alert").textContent).toContain("The database is away.");
    expect(screen.getByText("r-77")).toBeDefined();
    fireEvent.click(screen.getByRole("button", { name: "Try again" }));
    expect(again).toHaveBeenCalledOnce();
  });
});

describe("Toasts", () => {
  it("good news goes by itself, bad news stays until it is closed, and the same is said once", () => {
    vi.useFakeTimers();
    render(<Toasts />);
    act(() => {
      say("kept");
      say("not sent", "bad");
      say("not sent", "bad");
    });
    expect(screen.getAllByRole("button")).toHaveLength(2);
    act(() => vi.advanceTimersByTime(SHOWN_MS));
    expect(screen.queryByText("kept")).toBeNull();
    fireEvent.click(screen.getByRole("button", { name: "Close this notice" }));
    expect(screen.queryByText("not sent")).toBeNull();
  });
});

describe("Confirm", () => {
  // jsdom has <dialog> without its methods; the journeys in a real browser use the real ones.
  beforeEach(() => {
    HTMLDialogElement.prototype.showModal ??= function showModal(this: HTMLDialogElement) {
      this.open = true;
    };
    HTMLDialogElement.prototype.close ??= function close(this: HTMLDialogElement) {
      this.open = false;
      this.dispatchEvent(new Event("close"));
    };
  });

  it("opens when asked, says what will happen, and confirms or not", () => {
    const yes = vi.fn();
    const closed = vi.fn();
    const ask = (open: boolean) => (
      <Confirm open={open} title="Roll back?" confirm="Roll back" onConfirm={yes} onClose={closed}>
        <p>Version 6 answers again.</p>
      </Confirm>
    );
    const { rerender } = render(ask(false));
    expect(screen.queryByText("Version 6 answers again.")).toBeNull();
    rerender(ask(true));
    expect(screen.getByRole("dialog", { name: "Roll back?" })).toBeDefined();
    fireEvent.click(screen.getByRole("button", { name: "Roll back" }));
    expect(yes).toHaveBeenCalledOnce();
    fireEvent.click(screen.getByRole("button", { name: "Cancel" }));
    expect(closed).toHaveBeenCalledOnce();
  });
});

describe("LocalTime", () => {
  it("stays true while the page is open", () => {
    vi.useFakeTimers({ now: Date.UTC(2026, 0, 1, 12) });
    render(<LocalTime at="2026-01-01T12:00:00Z" ago />);
    expect(screen.getByText("just now").getAttribute("datetime")).toBe("2026-01-01T12:00:00Z");
    act(() => vi.advanceTimersByTime(3 * 60_000));
    expect(screen.getByText("3 minutes ago")).toBeDefined();
  });
});

describe("Shell", () => {
  const pages = [
    { path: "/", name: "Draw" },
    { path: "/history", name: "History" },
  ];
  function show() {
    render(
      <Router hook={useHashPath} searchHook={useHashSearch}>
        <Shell pages={pages} other={{ name: "Runs", href: "http://localhost/" }}>
          <h1>Here</h1>
        </Shell>
      </Router>,
    );
  }
  beforeEach(() => {
    history.replaceState(null, "", "#/?model=photos");
    vi.stubGlobal("scrollTo", () => {});
  });

  it("marks the page one is on, keeps the model, and moves the focus to a new page", () => {
    show();
    expect(screen.getByRole("link", { name: "Draw" }).getAttribute("aria-current")).toBe("page");
    fireEvent.click(screen.getByRole("link", { name: "History" }));
    expect(location.hash).toBe("#/history?model=photos");
    expect(screen.getByRole("link", { name: "History" }).getAttribute("aria-current")).toBe("page");
    expect(document.activeElement).toBe(screen.getByRole("main"));
  });

  it("skips to the page", () => {
    show();
    fireEvent.click(screen.getByRole("button", { name: "Skip to the page" }));
    expect(document.activeElement).toBe(screen.getByRole("main"));
  });

  it("keeps the chosen theme", () => {
    show();
    const press = () => fireEvent.click(screen.getByRole("button", { name: /^Theme/ }));
    press();
    expect(document.documentElement.dataset.theme).toBe("light");
    press();
    expect(document.documentElement.dataset.theme).toBe("dark");
    expect(localStorage.getItem("emend-theme")).toBe("dark");
    press();
    expect(document.documentElement.dataset.theme).toBeUndefined();
    expect(localStorage.getItem("emend-theme")).toBeNull();
  });
});
