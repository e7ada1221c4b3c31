import { afterEach, beforeEach, expect, it } from "vitest";
import { keepFocus } from "./focus.ts";

let end: () => void;
const observed = () => new Promise((resolve) => setTimeout(resolve));
const by = (id: string) => document.getElementById(id) as HTMLElement;

beforeEach(() => {
  document.body.innerHTML = `
    <main id="main"><section id="outer"><div id="inner"><button id="one">Right</button></div></section>
    <button id="other">Other</button></main>`;
  end = keepFocus(document.body);
});
afterEach(() => end());

it("goes to what is nearest around the one that is gone", async () => {
  by("one").focus();
  by("one").remove();
  await observed();
  expect(document.activeElement?.id).toBe("inner");
  by("inner").remove();
  await observed();
  expect(document.activeElement?.id).toBe("outer");
});

it("leaves no trace once it went on", async () => {
  by("one").focus();
  by("inner").remove();
  await observed();
  expect(by("outer").getAttribute("tabindex")).toBe("-1");
  by("other").focus();
  expect(by("outer").hasAttribute("tabindex")).toBe(false);
});

it("stays where the page put it itself", async () => {
  by("one").focus();
  by("inner").remove();
  by("other").focus();
  await observed();
  expect(document.activeElement?.id).toBe("other");
});

it("does not come back to somebody who left it", async () => {
  by("one").focus();
  by("one").blur();
  await observed();
  by("one").remove();
  await observed();
  expect(document.activeElement).toBe(document.body);
});
