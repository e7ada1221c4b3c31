import { act, render, screen } from "@testing-library/react";
import { expect, it, vi } from "vitest";
import { CategoryBox } from "./CategoryBox.tsx";
import type { Category } from "./names.ts";

/** Keys that come faster than the page is painted: nothing is drawn anew between them. */
function typeFast(input: HTMLInputElement, word: string): void {
  const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value")?.set;
  act(() => {
    for (const letter of word) {
      set?.call(input, input.value + letter);
      input.dispatchEvent(new InputEvent("input", { bubbles: true, data: letter }));
    }
  });
}

it("keeps every letter, however fast one types, and offers the whole word", () => {
  const chosen = vi.fn();
  render(<CategoryBox categories={[]} onChoose={chosen} />);
  const input = screen.getByRole<HTMLInputElement>("combobox");
  typeFast(input, "rhinoceros");
  expect(input.value).toBe("rhinoceros");
  act(() => screen.getByRole("option", { name: /Add rhinoceros/ }).click());
  expect(chosen).toHaveBeenCalledExactlyOnceWith("rhinoceros");
  expect(input.value).toBe("");
});

it("says why a retired category cannot be chosen", () => {
  const retired = {
    id: 1,
    name: "fax",
    aliases: [],
    state: "retired",
    images: 9,
    train_images: 9,
    missing: 0,
  };
  render(<CategoryBox categories={[retired as Category]} onChoose={vi.fn()} />);
  typeFast(screen.getByRole<HTMLInputElement>("combobox"), "fax");
  expect(screen.queryByRole("option")).toBe(null);
  expect(screen.getByRole("status", { name: "" }).textContent).toBe(
    "fax is no longer in use: choose another.",
  );
});
