/**
 * A stage's log as lines, however it comes in: pieces of text in, lines with their colours out.
 *
 *   const text = new LogText();
 *   text.append("\x1b[31mbad\x1b[0m news\nnext");
 *   text.plain(0) // "bad news"     text.spans(0) // [{ text: "bad", colour: "red", ... }, { text: " news", ... }]
 *
 * Of the escapes of terminals only colours and weights are followed; all others are left out. A carriage return begins
 * its line anew, as progress bars want it. Colours are worked out when a line is looked at, not when it comes: 100,000
 * lines are split in well under a second.
 */

export type Colour = "black" | "red" | "green" | "yellow" | "blue" | "magenta" | "cyan" | "white";
const COLOURS: readonly Colour[] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

export interface Look {
  colour: Colour | null;
  ground: Colour | null;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
}

export interface Span extends Look {
  text: string;
}

export const PLAIN: Look = {
  colour: null,
  ground: null,
  bold: false,
  dim: false,
  italic: false,
  underline: false,
};

// Colours end in "m"; other control sequences, titles of windows, and single escapes are swallowed whole.
const ESCAPE =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this is about
  /\x1b(?:\[([0-9;:]*)m|\[[0-?]*[ -/]*[@-ln-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_]|[()][0-9A-B])/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const OTHER_CONTROLS = /[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]/g;

export class LogText {
  private readonly lines: string[] = [];
  /** How a line begins, where that is not plain. */
  private readonly begins = new Map<number, Look>();
  private look = PLAIN;
  private rest = "";

  /** A last line without an end counts. */
  get length(): number {
    return this.lines.length + (this.rest === "" ? 0 : 1);
  }

  append(piece: string): void {
    const lines = (this.rest + piece).split("\n");
    this.rest = lines.pop() ?? "";
    for (const line of lines) {
      if (this.look !== PLAIN) this.begins.set(this.lines.length, this.look);
      if (line.includes("\x1b")) this.look = lookAfter(line, this.look);
      this.lines.push(afterReturns(line));
    }
  }

  plain(index: number): string {
    const line = this.raw(index);
    return line.includes("\x1b") ? line.replace(ESCAPE, "").replace(OTHER_CONTROLS, "") : cleaned(line);
  }

  spans(index: number): Span[] {
    const line = this.raw(index);
    let look = this.begins.get(index) ?? (index === this.lines.length ? this.look : PLAIN);
    if (!line.includes("\x1b")) return [{ ...look, text: cleaned(line) }];
    const spans: Span[] = [];
    let from = 0;
    for (const found of line.matchAll(ESCAPE)) {
      if (found.index > from) spans.push({ ...look, text: cleaned(line.slice(from, found.index)) });
      from = found.index + found[0].length;
      if (found[1] !== undefined) look = changed(look, found[1]);
    }
    if (from < line.length) spans.push({ ...look, text: line.slice(from).replace(OTHER_CONTROLS, "") });
    return spans;
  }

  /** The indices of the lines that hold it, without regard to capitals; none for "". */
  find(wanted: string): number[] {
    const needle = wanted.toLowerCase();
    const found: number[] = [];
    if (needle === "") return found;
    for (let index = 0; index < this.length; index++) {
      if (this.plain(index).toLowerCase().includes(needle)) found.push(index);
    }
    return found;
  }

  toString(): string {
    return Array.from({ length: this.length }, (_, index) => this.plain(index)).join("\n");
  }

  private raw(index: number): string {
    return this.lines[index] ?? (index === this.lines.length ? afterReturns(this.rest) : "");
  }
}

function cleaned(text: string): string {
  return text.replace(OTHER_CONTROLS, "");
}

function afterReturns(line: string): string {
  const whole = line.endsWith("\r") ? line.slice(0, -1) : line;
  return whole.slice(whole.lastIndexOf("\r") + 1);
}

function lookAfter(line: string, before: Look): Look {
  let look = before;
  for (const found of line.matchAll(ESCAPE)) if (found[1] !== undefined) look = changed(look, found[1]);
  return look;
}

function changed(before: Look, codes: string): Look {
  let look = before;
  const numbers = codes.split(/[;:]/).map(Number);
  for (let at = 0; at < numbers.length; at++) {
    const code = numbers[at] ?? 0;
    if (code === 38 || code === 48) {
      const [colour, used] = extended(numbers.slice(at + 1));
      look = code === 38 ? { ...look, colour } : { ...look, ground: colour };
      at += used;
    } else look = withCode(look, code);
  }
  return look;
}

function withCode(look: Look, code: number): Look {
  const of = (first: number) => COLOURS[code - first] ?? null;
  if (code === 0) return PLAIN;
  if (code === 1) return { ...look, bold: true };
  if (code === 2) return { ...look, dim: true };
  if (code === 3) return { ...look, italic: true };
  if (code === 4) return { ...look, underline: true };
  if (code === 22) return { ...look, bold: false, dim: false };
  if (code === 23) return { ...look, italic: false };
  if (code === 24) return { ...look, underline: false };
  if (code >= 30 && code <= 37) return { ...look, colour: of(30) };
  if (code === 39) return { ...look, colour: null };
  if (code >= 40 && code <= 47) return { ...look, ground: of(40) };
  if (code === 49) return { ...look, ground: null };
  if (code >= 90 && code <= 97) return { ...look, colour: of(90) };
  if (code >= 100 && code <= 107) return { ...look, ground: of(100) };
  return look;
}

/** Of `5;n` or `2;r;g;b`: the nearest of the eight, which can be read on light and dark alike; and how many were used. */
function extended(numbers: readonly number[]): [Colour | null, number] {
  if (numbers[0] === 2) return [nearest(numbers[1] ?? 0, numbers[2] ?? 0, numbers[3] ?? 0), 4];
  if (numbers[0] !== 5) return [null, numbers.length];
  const index = numbers[1] ?? 0;
  if (index < 16) return [COLOURS[index % 8] ?? null, 2];
  if (index >= 232) return [index < 244 ? "black" : "white", 2];
  const part = (scale: number) => 51 * (Math.floor((index - 16) / scale) % 6);
  return [nearest(part(36), part(6), part(1)), 2];
}

function nearest(red: number, green: number, blue: number): Colour {
  const middle = (Math.max(red, green, blue) + Math.min(red, green, blue)) / 2;
  const isGrey = Math.max(red, green, blue) - Math.min(red, green, blue) < 40;
  if (isGrey) return middle < 128 ? "black" : "white";
  return COLOURS[(red > middle ? 1 : 0) + (green > middle ? 2 : 0) + (blue > middle ? 4 : 0)] ?? "white";
}
