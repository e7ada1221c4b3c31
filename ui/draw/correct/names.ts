/** Names of categories as people type them: which one is meant, and which new one is perhaps an old one misspelt. */
import type { GatewayComponents } from "../../shared/api/client.ts";

export type Category = GatewayComponents["schemas"]["CategoryAnswer"];

export const MOST_CHARACTERS = 64; // core/labels.py

/** As the gateway keeps it: NFC, single spaces. */
export function tidy(name: string): string {
  return name.normalize("NFC").split(/\s+/).filter(Boolean).join(" ");
}

/** What two spellings of one category have in common (core/labels.py: key_of). */
function key(name: string): string {
  return tidy(name).toLowerCase().normalize("NFC");
}

/** The category that goes by this name or alias. */
export function named(name: string, categories: readonly Category[]): Category | undefined {
  const wanted = key(name);
  return categories.find((category) =>
    [category.name, ...category.aliases].some((each) => key(each) === wanted),
  );
}

/** Those whose name or alias holds what was typed, those that begin with it first. */
export function matching(typed: string, categories: readonly Category[]): Category[] {
  const wanted = plain(typed);
  const place = ({ name, aliases }: Category) => {
    const places = [name, ...aliases].map((each) => plain(each).indexOf(wanted)).filter((at) => at >= 0);
    return places.length === 0 ? -1 : Math.min(...places);
  };
  return categories
    .map((category) => ({ category, at: place(category) }))
    .filter(({ at }) => at >= 0)
    .sort((one, other) => Math.sign(one.at) - Math.sign(other.at) || compare(one.category, other.category))
    .map(({ category }) => category);
}

/** Categories that a new name is suspiciously close to: other spelling, one or two letters off, the plural. */
export function nearlyNamed(name: string, categories: readonly Category[]): Category[] {
  if (named(name, categories) !== undefined) return [];
  const wanted = singular(plain(name));
  if (wanted === "") return [];
  return categories
    .map((category) => ({
      category,
      off: Math.min(
        ...[category.name, ...category.aliases].map((each) => distance(wanted, singular(plain(each)))),
      ),
    }))
    .filter(({ off, category }) => off <= allowed(Math.min(wanted.length, plain(category.name).length)))
    .sort((one, other) => one.off - other.off || compare(one.category, other.category))
    .map(({ category }) => category);
}

function compare(one: Category, other: Category): number {
  return one.name.localeCompare(other.name);
}

/** Letters off that may be a slip: of a short word every letter counts. */
function allowed(length: number): number {
  if (length <= 3) return 0;
  return length <= 5 ? 1 : 2;
}

/** Without accents, marks and spaces, in small letters. */
function plain(name: string): string {
  return name
    .normalize("NFKD")
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]/gu, "");
}

function singular(word: string): string {
  if (word.length > 4 && word.endsWith("ies")) return `${word.slice(0, -3)}y`;
  if (word.length > 4 && /(s|x|z|ch|sh)es$/.test(word)) return word.slice(0, -2);
  return word.length > 3 && word.endsWith("s") && !word.endsWith("ss") ? word.slice(0, -1) : word;
}

/** Letters to add, take away, change or swap with their neighbour. */
export function distance(one: string, other: string): number {
  const rows: number[][] = [Array.from({ length: other.length + 1 }, (_, at) => at)];
  for (let i = 1; i <= one.length; i++) {
    const row = [i];
    for (let j = 1; j <= other.length; j++) {
      const at = (row: number, column: number) => rows[row]?.[column] ?? Infinity;
      const differs = one[i - 1] === other[j - 1] ? 0 : 1;
      let best = Math.min(at(i - 1, j) + 1, (row[j - 1] ?? 0) + 1, at(i - 1, j - 1) + differs);
      if (i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1]) {
        best = Math.min(best, at(i - 2, j - 2) + 1);
      }
      row.push(best);
    }
    rows.push(row);
  }
  return rows[one.length]?.[other.length] ?? 0;
}
