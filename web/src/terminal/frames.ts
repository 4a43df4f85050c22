// What travels on /shell/v1/{session}: see package shell (terminal.go) and package recording of the control plane.
// A message is one letter, a number of 8 bytes (big endian), and a body.

export type Told = "i" | "r" | "c" | "k";
export type Shown = "s" | "e" | "a" | "x" | "t";

const header = 9;

export interface Message {
  kind: string;
  number: number;
  body: Uint8Array;
}

export function encode(kind: Told, number: number, body: Uint8Array = new Uint8Array()): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(header + body.length);
  out[0] = kind.charCodeAt(0);
  new DataView(out.buffer).setBigUint64(1, BigInt(number));
  out.set(body, header);
  return out;
}

export function decode(message: ArrayBuffer): Message | undefined {
  if (message.byteLength < header) return undefined;
  return { kind: String.fromCharCode(new DataView(message).getUint8(0)), number: Number(new DataView(message).getBigUint64(1)), body: new Uint8Array(message, header) };
}

/** Something that a session's recording has: o output, r "COLSxROWS", m a line about it, x how it ended (JSON), h what it is (JSON). */
export interface Happening {
  kind: string;
  at: number; // seconds since the session began
  data: Uint8Array;
}

/** The frames that a message carries whole: 3 bytes of length, a letter, the time in microseconds (varint), data. */
export function happenings(b: Uint8Array): Happening[] {
  const out: Happening[] = [];
  let i = 0;
  while (i < b.length) {
    if (i + 3 > b.length) throw new Error("a frame is cut");
    const end = i + 3 + ((b[i]! << 16) | (b[i + 1]! << 8) | b[i + 2]!);
    if (end > b.length || end < i + 5) throw new Error("a frame is cut");
    let micros = 0;
    let scale = 1;
    let at = i + 4;
    for (;;) {
      if (at >= end || scale > 2 ** 56) throw new Error("a frame has no time");
      const v = b[at++]!;
      micros += (v & 0x7f) * scale;
      scale *= 128;
      if (v < 0x80) break;
    }
    out.push({ kind: String.fromCharCode(b[i + 3]!), at: micros / 1e6, data: b.subarray(at, end) });
    i = end;
  }
  return out;
}
