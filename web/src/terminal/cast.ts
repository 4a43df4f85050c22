// A recording as an asciicast v3 (https://docs.asciinema.org/manual/asciicast/v3/), and the time in which it is played.

export interface Step {
  at: number; // seconds since the beginning
  kind: string; // o output, r "COLSxROWS", m a line about it, x how it ended
  text: string;
}

export interface Cast {
  cols: number;
  rows: number;
  title: string;
  steps: Step[];
  length: number; // seconds
}

/** Reads a cast. A line that cannot be read ends it: what came before is worth seeing. */
export function parseCast(text: string): Cast {
  const cast: Cast = { cols: 80, rows: 24, title: "", steps: [], length: 0 };
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    let read: unknown;
    try {
      read = JSON.parse(line);
    } catch {
      break;
    }
    if (Array.isArray(read)) {
      const [pause, kind, data] = read as [number, string, string];
      cast.length += pause;
      cast.steps.push({ at: cast.length, kind, text: data });
    } else {
      const h = read as { term?: { cols?: number; rows?: number }; title?: string };
      cast.cols = h.term?.cols ?? 80;
      cast.rows = h.term?.rows ?? 24;
      cast.title = h.title ?? "";
    }
  }
  return cast;
}

/** The same with no pause longer than `most` seconds; 0: as it was. */
export function withoutIdle(cast: Cast, most: number): Cast {
  if (most <= 0) return cast;
  let skipped = 0;
  let last = 0;
  const steps = cast.steps.map((s) => {
    const pause = s.at - last;
    last = s.at;
    if (pause > most) skipped += pause - most;
    return { ...s, at: s.at - skipped };
  });
  return { ...cast, steps, length: cast.length - skipped };
}

const escapes = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[PX^_][^\u001b]*\u001b\\|[ -/]*[0-~])/g;

/** Text as it is read, without what only moves the cursor or colours it. */
export function plain(text: string): string {
  return text.replace(escapes, "").replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, "");
}

export interface Found {
  at: number; // seconds
  line: string;
}

/** Where a text stands in what was shown, line by line, wherever the pieces of a line came from. */
export function search(cast: Cast, wanted: string, most = 200): Found[] {
  const needle = wanted.toLowerCase();
  const out: Found[] = [];
  if (!needle) return out;
  let line = "";
  let at = 0; // when the last of the line was shown
  const take = () => {
    const read = plain(line);
    if (read.toLowerCase().includes(needle) && out.length < most) out.push({ at, line: read.trim().slice(0, 200) });
    line = "";
  };
  for (const s of cast.steps) {
    if (s.kind !== "o") continue;
    const pieces = s.text.split(/\r?\n|\r(?!$)/);
    pieces.forEach((piece, i) => {
      if (i > 0) take();
      if (piece !== "") at = s.at;
      line += piece;
    });
    if (line.length > 1 << 16) take();
  }
  take();
  return out;
}
