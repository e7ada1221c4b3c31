// Before the first paint, so that a chosen theme does not flash: see shared/theme.ts.
try {
  const theme = localStorage.getItem("emend-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // storage is forbidden: the system's theme it is
}
