/**
 * Focus that outlives what had it. A button that was pressed often goes with what it did ("Right", "Retrain now"): the
 * browser would then put the focus on the whole page, and whoever hears the page or uses the keyboard starts over.
 *
 *   const end = keepFocus(document.body);      // what is nearest around the one that is gone gets the focus
 */
export function keepFocus(root: HTMLElement): () => void {
  /** What has the focus, and what it stands in, innermost first. */
  let path: HTMLElement[] = [];

  const come = (event: FocusEvent) => {
    path = [];
    for (let at = event.target as HTMLElement | null; at !== null && at !== root; at = at.parentElement) {
      path.push(at);
    }
  };

  // Somebody pressed on what takes no focus: that is no loss. Told before an element is gone, so it is looked at after.
  const leave = () =>
    queueMicrotask(() => {
      if (path[0]?.isConnected && isLost()) path = [];
    });

  const changes = new MutationObserver(() => {
    if (path.length === 0 || path[0]?.isConnected || !isLost()) return;
    for (const place of path) if (place.isConnected && take(place)) return;
    path = [];
  });

  root.addEventListener("focusin", come);
  root.addEventListener("focusout", leave);
  changes.observe(root, { childList: true, subtree: true });
  return () => {
    root.removeEventListener("focusin", come);
    root.removeEventListener("focusout", leave);
    changes.disconnect();
  };
}

function isLost(): boolean {
  return document.activeElement === null || document.activeElement === document.body;
}

/** Whether it took the focus; it can be reached by this alone, and only for as long as it has it. */
function take(place: HTMLElement): boolean {
  if (!place.hasAttribute("tabindex")) {
    place.setAttribute("tabindex", "-1");
    place.addEventListener("blur", () => place.removeAttribute("tabindex"), { once: true });
  }
  place.focus({ preventScroll: true });
  return document.activeElement === place;
}
