// Day, night, or what the system asks for. The choice is the browser's: it is kept there and nowhere else.
export type Theme = "system" | "light" | "dark";

const where = "loopback.theme";

export function theme(): Theme {
  const kept = localStorage.getItem(where);
  return kept === "light" || kept === "dark" ? kept : "system";
}

export function applyTheme(chosen: Theme): void {
  if (chosen === "system") {
    localStorage.removeItem(where);
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem(where, chosen);
    document.documentElement.dataset.theme = chosen;
  }
}
