/** What every page stands in: name, pages, link to the other app, theme, skip link; focus goes to the new page. */
import { type ReactNode, useEffect, useRef, useState } from "react";
import { Link, useLocation } from "wouter";
import { withKept } from "../address.ts";
import { chooseTheme, chosenTheme, THEMES, type Theme } from "../theme.ts";
import { Toasts } from "./Toasts.tsx";
import "./Shell.css";

export interface Page {
  path: string;
  name: string;
  /** Addresses that belong to it without being below it: `/runs` to `/`. */
  also?: string;
}

interface Props {
  pages: readonly Page[];
  /** To the other app: name and address. */
  other?: { name: string; href: string };
  /** Beside the theme switch: choice of model, whether what is shown is live. */
  tools?: ReactNode;
  children: ReactNode;
}

export function Shell({ pages, other, tools, children }: Props) {
  const [at] = useLocation();
  const main = useRef<HTMLElement>(null);
  const previous = useRef(at);
  useEffect(() => {
    if (previous.current === at) return; // not on the first page: the browser begins at the top itself
    previous.current = at;
    main.current?.focus();
    scrollTo(0, 0);
  }, [at]);
  return (
    <div className="shell">
      <button type="button" className="shell-skip" onClick={() => main.current?.focus()}>
        Skip to the page
      </button>
      <header className="shell-head">
        <div className="shell-bar">
          <Link href={withKept("/")} className="shell-brand">
            <Caret /> Emend
          </Link>
          <nav className="shell-nav" aria-label="Pages">
            {pages.map(({ path, name, also = path }) => (
              <Link
                key={path}
                href={withKept(path)}
                aria-current={isAt(path, at) || isAt(also, at) ? "page" : undefined}
              >
                {name}
              </Link>
            ))}
          </nav>
          <div className="shell-tools">
            {tools}
            {other && <a href={other.href}>{other.name}</a>}
            <ThemeSwitch />
          </div>
        </div>
      </header>
      <main className="shell-main" ref={main} tabIndex={-1}>
        {children}
      </main>
      <Toasts />
      <footer className="shell-foot">
        Emend gets better from your corrections. They go to this Emend and nowhere else.
      </footer>
    </div>
  );
}

function isAt(path: string, at: string): boolean {
  return path === "/" ? at === "/" : at === path || at.startsWith(`${path}/`);
}

const NAMES: Record<Theme, string> = { system: "as the system", light: "light", dark: "dark" };

function ThemeSwitch() {
  const [theme, setTheme] = useState(chosenTheme);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "system";
  return (
    <button
      type="button"
      className="shell-theme"
      aria-label={`Theme: ${NAMES[theme]}. Change to ${NAMES[next]}`}
      title={`Theme: ${NAMES[theme]}`}
      onClick={() => {
        chooseTheme(next);
        setTheme(next);
      }}
    >
      <svg viewBox="0 0 20 20" aria-hidden="true">
        <circle cx="10" cy="10" r="7" fill="none" stroke="currentColor" strokeWidth="1.6" />
        {theme === "system" && <path d="M10 3a7 7 0 0 1 0 14z" fill="currentColor" />}
        {theme === "dark" && <circle cx="10" cy="10" r="7" fill="currentColor" />}
      </svg>
    </button>
  );
}

/** A proofreader's caret: something is to be put in here. */
function Caret() {
  return (
    <svg viewBox="0 0 20 20" aria-hidden="true">
      <path
        d="M3 16 10 4l7 12"
        fill="none"
        stroke="currentColor"
        strokeWidth="3"
        strokeLinecap="round"
        strokeLinejoin="round"
      />
    </svg>
  );
}
