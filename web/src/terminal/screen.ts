// A terminal's screen: xterm.js, in our colours, under our policy.
import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { strictly } from "./strict";

export interface Size {
  cols: number;
  rows: number;
}

export interface ScreenOptions {
  /** What is typed; without it the screen only shows. */
  typed?: (bytes: Uint8Array) => void;
  /** The size that fits its place, whenever that is another. */
  fits?: (size: Size) => void;
  label: string;
}

const encoder = new TextEncoder();

export class Screen {
  private readonly terminal: Terminal;
  private readonly fit = new FitAddon();
  private readonly search = new SearchAddon();
  private readonly watch: ResizeObserver;
  private readonly night = matchMedia("(prefers-color-scheme: dark)");
  private readonly dress = () => {
    this.terminal.options.theme = theme(this.place);
  };

  constructor(
    private readonly place: HTMLElement,
    private readonly options: ScreenOptions,
  ) {
    this.terminal = new Terminal({
      fontFamily: 'ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", monospace',
      fontSize: 13,
      scrollback: 10_000,
      cursorBlink: false,
      disableStdin: !options.typed,
      cursorInactiveStyle: options.typed ? "outline" : "none",
      screenReaderMode: localStorage.getItem("loopback.screenReader") === "on",
      // A program on a host names what its text leads to. Nobody is sent there unseen.
      linkHandler: { activate: () => undefined },
      allowProposedApi: true,
      theme: theme(place),
    });
    this.terminal.loadAddon(this.fit);
    this.terminal.loadAddon(this.search);
    strictly(() => this.terminal.open(place));
    this.terminal.textarea?.setAttribute("aria-label", options.label);
    if (options.typed) {
      this.terminal.onData((text) => options.typed?.(encoder.encode(text)));
      this.terminal.onBinary((text) => options.typed?.(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    }
    this.watch = new ResizeObserver(() => this.refit());
    this.watch.observe(place);
    this.night.addEventListener("change", this.dress);
  }

  /** The size that its place has room for, told to whoever asked. A screen that only shows keeps the session's. */
  refit() {
    const room = this.fit.proposeDimensions();
    if (!room || !room.cols || !room.rows) return;
    const size = { cols: Math.min(room.cols, 1000), rows: Math.min(room.rows, 1000) };
    this.options.fits?.(size);
  }

  /** Shows bytes, and says when that was done: whoever sends more than a screen takes has to wait. */
  write(bytes: Uint8Array | string, done?: () => void) {
    this.terminal.write(bytes, done);
  }

  resize(size: Size) {
    if (size.cols !== this.terminal.cols || size.rows !== this.terminal.rows) strictly(() => this.terminal.resize(size.cols, size.rows));
  }

  get size(): Size {
    return { cols: this.terminal.cols, rows: this.terminal.rows };
  }

  clear() {
    this.terminal.reset();
  }

  focus() {
    this.terminal.focus();
  }

  /** All that is on the screen and above it, by lines. */
  lines(): string[] {
    const b = this.terminal.buffer.active;
    return Array.from({ length: b.length }, (_, i) => b.getLine(i)?.translateToString(true) ?? "");
  }

  find(text: string): boolean {
    return text === "" ? (this.search.clearDecorations(), false) : this.search.findPrevious(text);
  }

  dispose() {
    this.watch.disconnect();
    this.night.removeEventListener("change", this.dress);
    this.terminal.dispose();
  }
}

// The screen stays dark by day: programs choose their colours for that.
function theme(place: HTMLElement) {
  const css = getComputedStyle(place);
  const of = (name: string, other: string) => css.getPropertyValue(name).trim() || other;
  return {
    background: of("--terminal-paper", "#11161b"),
    foreground: of("--terminal-ink", "#e8ecef"),
    cursor: of("--terminal-cursor", "#56c7b8"),
    selectionBackground: "#2f5a56",
    black: "#1b232b",
    red: "#f2918b",
    green: "#6cc992",
    yellow: "#e5b35c",
    blue: "#7db4ee",
    magenta: "#bda2ea",
    cyan: "#56c7b8",
    white: "#c9d1d8",
    brightBlack: "#7d8a95",
    brightRed: "#ffb4ae",
    brightGreen: "#93dfb1",
    brightYellow: "#f5cf8b",
    brightBlue: "#a6cdf7",
    brightMagenta: "#d6c3f5",
    brightCyan: "#8fe0d5",
    brightWhite: "#ffffff",
  };
}
