// Somebody's part in a session, over as many connections as it takes: what is typed and what is shown go on at the very byte.
import { decode, encode, happenings, type Happening } from "./frames";

export type Mode = "own" | "join" | "watch";

export interface Over {
  code: string;
  message: string;
  hint: string;
}

/** What a guest is told of what they see. */
export interface Hello {
  host: string;
  guest?: string;
  invitedBy?: string;
  until?: string;
}

export interface Events {
  /** There is a connection, and this is what it leads to. */
  welcomed?: (hello: Hello) => void;
  /** Something happened; `shown` is called once it is on the screen, and lets the control plane send more. */
  happened: (h: Happening, shown: () => void) => void;
  /** Whether there is a connection; since when there is none. */
  connected: (on: boolean) => void;
  /** The session, or one's part in it, is over for good. */
  over: (why: Over) => void;
}

export interface Options {
  session: string;
  mode: Mode;
  /** The string of a guest's link, by which nobody signs in: it is kept in memory, and sent in no address. */
  guest?: string;
  events: Events;
  /** Has the person show their passkey, where they have been away for too long to go on without; false where they leave it. */
  stepUp?: () => Promise<boolean>;
  /** Where the control plane is; by default where the page is from. */
  base?: string;
  socket?: (url: string, protocols?: string[]) => WebSocket;
}

const guestProtocol = "loopback.guest.v1";

const maxInput = 16 << 10;
const maxUntyped = 256 << 10; // bytes typed that nobody has confirmed
const speakEvery = 8_000; // a browser cannot ping; the control plane gives up whoever is silent for 30 s
const answerWithin = 6_000; // for what was typed to be confirmed, before the connection is taken for dead
const firstWait = 50;
const mostWait = 2_000;
const giveUpAfter = 15 * 60_000;

export class Connection {
  private socket: WebSocket | undefined;
  private position = 0; // everything up to here was shown
  private begun = false;
  private typed: Uint8Array[] = []; // and not confirmed
  private untyped = 0; // bytes of it
  private base = 0; // how many bytes come before it
  private readonly origin = crypto.getRandomValues(new BigUint64Array(1))[0]!.toString();
  private again = ""; // what to go on with after a cut, in place of a passkey; kept nowhere else
  private size = "";
  private wait = firstWait;
  private lostAt = 0;
  private closed = false;
  private timers = new Set<ReturnType<typeof setTimeout>>();
  private doubt: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly o: Options) {
    this.dial();
  }

  /** Types; false where too much waits to be confirmed. */
  type(bytes: Uint8Array): boolean {
    if (this.closed || this.untyped + bytes.length > maxUntyped) return false;
    for (let i = 0; i < bytes.length; i += maxInput) {
      const part = bytes.slice(i, i + maxInput);
      this.tell(encode("i", this.base + this.untyped, part));
      this.typed.push(part);
      this.untyped += part.length;
    }
    this.expectAnswer();
    return true;
  }

  resize(cols: number, rows: number) {
    this.size = `${cols}x${rows}`;
    this.tell(encode("r", 0, new TextEncoder().encode(this.size)));
  }

  /** Ends the session, for whoever opened it. */
  kill() {
    this.tell(encode("k", 0));
  }

  close() {
    this.closed = true;
    for (const t of this.timers) clearTimeout(t);
    clearTimeout(this.doubt);
    this.socket?.close();
  }

  private tell(message: Uint8Array<ArrayBuffer>) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(message);
  }

  private later(ms: number, run: () => void) {
    const t = setTimeout(() => {
      this.timers.delete(t);
      run();
    }, ms);
    this.timers.add(t);
  }

  private dial() {
    const base = this.o.base ?? window.location.origin.replace(/^http/, "ws");
    // A session that was never seen by us begins where the control plane says: at the first byte for who owns it.
    const from = this.begun || this.o.mode === "own" ? this.position : -1;
    const url = `${base}${this.path()}?${this.query(from)}`;
    const protocols = this.o.guest ? [guestProtocol, this.o.guest] : undefined; // a browser sends no header of ours
    const socket = this.o.socket ? this.o.socket(url, protocols) : new WebSocket(url, protocols);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    let welcomed = false;
    let over: Over | undefined;
    socket.onmessage = (e) => {
      const m = e.data instanceof ArrayBuffer ? decode(e.data) : undefined;
      if (!m || this.socket !== socket) return;
      switch (m.kind) {
        case "s":
          welcomed = true;
          this.o.events.welcomed?.(JSON.parse(new TextDecoder().decode(m.body)) as Hello);
          this.welcome(socket);
          break;
        case "e":
          this.show(m.body, m.number);
          break;
        case "a":
          this.confirmed(m.number);
          break;
        case "t":
          this.again = new TextDecoder().decode(m.body);
          break;
        case "x":
          over = JSON.parse(new TextDecoder().decode(m.body)) as Over;
          break;
      }
    };
    socket.onclose = () => {
      if (this.socket !== socket || this.closed) return;
      this.socket = undefined;
      this.o.events.connected(false);
      void this.lost(over, welcomed);
    };
  }

  private path(): string {
    return `/${this.o.guest ? "guest" : "shell"}/v1/${encodeURIComponent(this.o.session)}`;
  }

  private query(from: number): string {
    if (this.o.guest) return `pos=${from}`;
    return `mode=${this.o.mode}&pos=${from}&origin=${this.origin}` + (this.again && `&again=${this.again}`);
  }

  private welcome(socket: WebSocket) {
    this.wait = firstWait;
    this.lostAt = 0;
    this.o.events.connected(true);
    let at = this.base;
    for (const part of this.typed) {
      this.tell(encode("i", at, part)); // the host types once what comes twice
      at += part.length;
    }
    if (this.size && this.o.mode !== "watch") this.tell(encode("r", 0, new TextEncoder().encode(this.size)));
    const speak = () => {
      if (this.socket !== socket) return;
      this.tell(encode("c", this.position));
      this.later(speakEvery, speak);
    };
    this.later(speakEvery, speak);
    this.expectAnswer();
  }

  private show(body: Uint8Array, position: number) {
    this.begun = true;
    const all = happenings(body);
    let left = all.length;
    const done = () => {
      if (--left > 0) return;
      this.position = position;
      this.tell(encode("c", position));
    };
    for (const h of all) this.o.events.happened(h, done);
  }

  private confirmed(upTo: number) {
    while (this.typed.length > 0 && upTo > this.base) {
      const part = this.typed[0]!;
      const n = Math.min(upTo - this.base, part.length);
      this.base += n;
      this.untyped -= n;
      if (n < part.length) this.typed[0] = part.subarray(n);
      else this.typed.shift();
    }
    clearTimeout(this.doubt);
    this.doubt = undefined;
    this.expectAnswer();
  }

  /** A connection into the void looks alive until something has to come back. */
  private expectAnswer() {
    if (this.untyped === 0 || this.doubt !== undefined || this.socket?.readyState !== WebSocket.OPEN) return;
    const socket = this.socket;
    this.doubt = setTimeout(() => {
      this.doubt = undefined;
      if (this.socket !== socket || this.closed) return;
      this.socket = undefined;
      socket.close();
      this.o.events.connected(false);
      void this.lost(undefined, true);
    }, answerWithin);
  }

  private async lost(over: Over | undefined, welcomed: boolean) {
    clearTimeout(this.doubt);
    this.doubt = undefined;
    if (over && !passing(over)) {
      this.end(over);
      return;
    }
    if (!welcomed && !over) {
      // A browser is not told why a WebSocket was refused; asked for as a page, the same address says it.
      const refused = await this.whyNot();
      if (this.closed) return;
      if (refused) {
        const shown = refused.code === "step_up_required" && (await this.o.stepUp?.());
        if (this.closed) return;
        if (!shown) {
          this.end(refused);
          return;
        }
      }
    }
    this.lostAt ||= Date.now();
    if (Date.now() - this.lostAt > giveUpAfter) {
      this.end({ code: "session_lost", message: "the control plane did not come back", hint: "open this page again later: the session may go on" });
      return;
    }
    this.later(this.wait, () => this.dial());
    this.wait = Math.min(2 * this.wait, mostWait);
  }

  private async whyNot(): Promise<Over | undefined> {
    const url = `${(this.o.base ?? window.location.origin).replace(/^ws/, "http")}${this.path()}?${this.query(this.position)}`;
    try {
      const answer = await fetch(url, this.o.guest ? { credentials: "omit", headers: { Authorization: `Bearer ${this.o.guest}` } } : { credentials: "same-origin" });
      if (answer.status < 400 || answer.status >= 500 || answer.status === 426 || answer.status === 429) return undefined; // 426: nothing is in the way
      const said = (await answer.json()) as Partial<Over>;
      if (!said.code) return undefined;
      const over = { code: said.code, message: said.message ?? "", hint: said.hint ?? "" };
      return passing(over) ? undefined : over;
    } catch {
      return undefined; // nobody answers, or none of ours
    }
  }

  private end(why: Over) {
    this.close();
    this.o.events.over(why);
  }
}

// What ends a connection, and not the session.
const passes = new Set(["session_lost", "unavailable", "stopping", "server_stopping", "rate_limited", "too_busy", "database_unreachable", "database_locked"]);

function passing(over: Over & { kind?: string }): boolean {
  return passes.has(over.code) || over.kind === "unavailable" || over.kind === "deadline_exceeded" || over.kind === "resource_exhausted";
}
