/** Numbers with units, and times, as every page writes them. */

const SPACE = "\u00a0"; // a number and its unit stay on one line

export function percent(share: number, digits = 1): string {
  // 99.96 % is not 100.0 %: nearly everything is not everything.
  const scale = 10 ** digits;
  let shown = Math.round(share * 100 * scale) / scale;
  if (shown === 100 && share < 1) shown = 100 - 1 / scale;
  if (shown === 0 && share > 0) return `<${SPACE}${(1 / scale).toFixed(digits)}${SPACE}%`;
  return `${shown.toFixed(digits)}${SPACE}%`;
}

/** 0.42 s, 8.1 s, 1 min 20 s, 2 h 05 min. */
export function duration(seconds: number): string {
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

/** "0.9 GB", "312 MB": powers of ten, as disks and MLflow count. */
export function size(bytes: number): string {
  if (bytes < 999.5e6) return `${Math.round(bytes / 1e6)}${SPACE}MB`;
  return `${(bytes / 1e9).toFixed(bytes < 99.95e9 ? 1 : 0)}${SPACE}GB`;
}

const COUNT = new Intl.NumberFormat("en");
export function count(number: number): string {
  return COUNT.format(number);
}

/** "1 run", "3 runs". */
export function counted(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});
const YEAR = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

/** The clock alone for today, the year only for other years. */
export function localTime(at: Date, now = Date.now()): string {
  const today = new Date(now);
  if (at.toDateString() === today.toDateString()) return CLOCK.format(at);
  return at.getFullYear() === today.getFullYear() ? DAY.format(at) : YEAR.format(at);
}

export function wholeTime(at: Date): string {
  return WHOLE.format(at);
}

export function ago(at: Date, now = Date.now()): string {
  const seconds = Math.round((now - at.getTime()) / 1000);
  if (seconds < 45) return "just now";
  if (seconds < 90 * 60) return `${counted(Math.max(1, Math.round(seconds / 60)), "minute")} ago`;
  if (seconds < 36 * 3600) return `${counted(Math.round(seconds / 3600), "hour")} ago`;
  return `${counted(Math.round(seconds / 86_400), "day")} ago`;
}

/** "-1.6" with a real minus; dates, ranges and names keep their hyphens. */
export function minus(text: string): string {
  return text.replace(/(?<![\w.)-])-(?=\d)/g, "−");
}

/**
 * What a service says, as a sentence of its own: "the database is away" becomes "The database is away." Addresses of
 * services and names of exceptions are for the logs; a command stands in quotation marks.
 */
export function sentence(said: string): string {
  const text = said
    .replace(/ at https?:\/\/[^\s,;()]+/g, "")
    .replace(/ \([A-Z]\w*(?:Error|Exception|Timeout)\)/g, "")
    .replace(/`([^`]+)`/g, "“$1”")
    .trim();
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
}
