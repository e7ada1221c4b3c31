/** Type to find a category or to add a new one; names close to a new one are pointed out first. */
import { useCombobox } from "downshift";
import { useId, useState } from "react";
import { counted } from "../../shared/format.ts";
import { type Category, MOST_CHARACTERS, matching, named, nearlyNamed, tidy } from "./names.ts";
import "./CategoryBox.css";

const MOST_SHOWN = 50;

type Item =
  | { kind: "known"; category: Category; near: boolean }
  | { kind: "new"; name: string; near: boolean };

interface Props {
  categories: readonly Category[];
  /** With the category's own name, or a new one. */
  onChoose: (name: string) => void;
  label?: string;
}

export function CategoryBox({ categories, onChoose, label = "Or something else" }: Props) {
  const [typed, setTyped] = useState("");
  const hint = useId();
  const items = itemsFor(typed, categories);
  const retired = named(typed, categories)?.state === "retired";
  const near = items.filter((item) => item.kind === "known" && item.near);
  const box = useCombobox<Item>({
    items,
    inputValue: typed,
    itemToString: (item) => (item === null ? "" : nameOf(item)),
    // What is typed is taken from the input itself, below: downshift tells it later, and letters typed fast would be lost.
    onInputValueChange: ({ inputValue, type }) => {
      if (type !== useCombobox.stateChangeTypes.InputChange) setTyped(inputValue);
    },
    stateReducer: (_, { type, changes }) => {
      if (type === useCombobox.stateChangeTypes.InputBlur) return { ...changes, selectedItem: null };
      // Enter takes the first, once something was typed.
      if (type !== useCombobox.stateChangeTypes.InputChange) return changes;
      return { ...changes, highlightedIndex: tidy(changes.inputValue ?? "") === "" ? -1 : 0 };
    },
    onSelectedItemChange: ({ selectedItem, type }) => {
      if (!selectedItem || type === useCombobox.stateChangeTypes.InputBlur) return;
      onChoose(nameOf(selectedItem));
      setTyped("");
      box.reset();
    },
  });
  return (
    <div className="category-box">
      {/* biome-ignore lint/a11y/noLabelWithoutControl: downshift sets htmlFor */}
      <label {...box.getLabelProps()} className="small soft">
        {label}
      </label>
      <input
        {...box.getInputProps({
          "aria-describedby": hint,
          onChange: (event) => setTyped(event.currentTarget.value),
        })}
        className="category-box-input"
        placeholder="Find or add a category"
        maxLength={MOST_CHARACTERS}
        autoComplete="off"
        autoCapitalize="none"
        spellCheck={false}
        enterKeyHint="done"
      />
      <span id={hint} className={retired ? "small soft" : "aloud"} role={retired ? "status" : undefined}>
        {retired
          ? `${tidy(typed)} is no longer in use: choose another.`
          : near.length > 0
            ? `Close to ${near.map(nameOf).join(", ")}.`
            : "Type a name; a name that is not in the list can be added."}
      </span>
      <ul
        {...box.getMenuProps()}
        className="category-box-menu"
        data-open={(box.isOpen && items.length > 0) || undefined}
      >
        {box.isOpen &&
          items.map((item, index) => (
            <li
              key={`${item.kind} ${nameOf(item)}`}
              {...box.getItemProps({ item, index })}
              data-here={box.highlightedIndex === index || undefined}
              data-new={item.kind === "new" || undefined}
            >
              {item.kind === "known" ? (
                <>
                  <span>
                    {item.near && <span className="category-box-near">Did you mean </span>}
                    {item.category.name}
                    {item.near && <span className="category-box-near">?</span>}
                  </span>
                  {item.category.missing > 0 && (
                    <span className="soft small">new, {counted(item.category.missing, "image")} missing</span>
                  )}
                </>
              ) : (
                <>
                  <span>
                    Add <b>{item.name}</b>
                    {item.near && " all the same"}
                  </span>
                  <span className="soft small">new category</span>
                </>
              )}
            </li>
          ))}
      </ul>
    </div>
  );
}

function itemsFor(typed: string, categories: readonly Category[]): Item[] {
  const name = tidy(typed);
  const open = categories.filter(({ state }) => state !== "retired");
  const found = matching(name, open).slice(0, MOST_SHOWN);
  const near = name === "" ? [] : nearlyNamed(name, open);
  const items: Item[] = [...new Set([...near, ...found])].map((category) => ({
    kind: "known",
    category,
    near: near.includes(category),
  }));
  const isNew = /[\p{L}\p{N}\p{S}]/u.test(name) && named(name, categories) === undefined;
  if (isNew) items.push({ kind: "new", name, near: near.length > 0 });
  const exact = named(name, open);
  if (exact === undefined) return items;
  // The one whose very name was typed comes first, so that Enter takes it.
  return items.sort((one, other) => Number(isOf(other, exact)) - Number(isOf(one, exact)));
}

function isOf(item: Item, category: Category): boolean {
  return item.kind === "known" && item.category.id === category.id;
}

function nameOf(item: Item): string {
  return item.kind === "known" ? item.category.name : item.name;
}
