import { act, render, screen } from "@testing-library/react";
import { expect, it, vi } from "vitest";
import { CategoryBox } from "./CategoryBox.tsx";

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
