import { act, render, screen } from "@testing-library/react";
import { beforeEach, describe, expect, it } from "vitest";
import { Route, Router, Switch, useLocation, useParams } from "wouter";
import { navigate, useHashPath, useHashSearch, useParameter, withKept } from "./address.ts";

function Where() {
  const [at] = useLocation();
  const [model, setModel] = useParameter("model");
  return (
    <button type="button" onClick={() => setModel(model === null ? "a & b" : null)}>
      {at} {model ?? "none"}
    </button>
  );
}

function Run() {
  return <p>run {useParams().id}</p>;
}

beforeEach(() => {
  history.replaceState(null, "", "#/");
  render(
    <Router hook={useHashPath} searchHook={useHashSearch}>
      <Where />
      <Switch>
        <Route path="/runs/:id">
          <Run />
        </Route>
      </Switch>
    </Router>,
  );
});

describe("addresses after the #", () => {
  it("lead to pages, with parameters apart from the path", () => {
    act(() => navigate("/runs/12?model=photos"));
    expect(screen.getByText("run 12")).toBeDefined();
    expect(screen.getByRole("button").textContent).toBe("/runs/12 photos");
    expect(location.hash).toBe("#/runs/12?model=photos");
  });

  it("follow the browser's own changes", () => {
    act(() => {
      history.pushState(null, "", "#/runs/3");
      dispatchEvent(new HashChangeEvent("hashchange"));
    });
    expect(screen.getByText("run 3")).toBeDefined();
  });

  it("keep a parameter that was set, without a new entry in the history", () => {
    const entries = history.length;
    act(() => screen.getByRole("button").click());
    expect(location.hash).toBe("#/?model=a+%26+b");
    expect(screen.getByRole("button").textContent).toBe("/ a & b");
    act(() => screen.getByRole("button").click());
    expect(location.hash).toBe("#/");
    expect(history.length).toBe(entries);
  });

  it("carry the model along, unless a link names its own", () => {
    navigate("/?model=photos&page=2");
    expect(withKept("/history")).toBe("/history?model=photos");
    expect(withKept("/history?model=doodles")).toBe("/history?model=doodles");
  });
});
