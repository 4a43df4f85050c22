import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Connection, type Over } from "./connection";
import { decode, encode } from "./frames";

const text = new TextEncoder();

class Socket {
  binaryType = "";
  readyState = 1;
  sent: string[] = [];
  onmessage: ((e: { data: ArrayBuffer }) => void) | undefined;
  onclose: (() => void) | undefined;
  constructor(readonly url: string) {}
  send(b: Uint8Array<ArrayBuffer>) {
    const m = decode(b.buffer)!;
    this.sent.push(`${m.kind}${m.number}:${new TextDecoder().decode(m.body)}`);
  }
  close() {
    this.cut();
  }
  cut() {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.();
  }
  says(kind: string, number = 0, body: Uint8Array = new Uint8Array()) {
    const m = encode(kind as "i", number, body);
    this.onmessage?.({ data: m.buffer });
  }
}

/** One frame of output in which nothing but its data matters. */
function output(data: string): Uint8Array {
  const b = text.encode(data);
  return new Uint8Array([0, 0, b.length + 2, "o".charCodeAt(0), 1, ...b]);
}

describe("somebody's part in a session", () => {
  let sockets: Socket[];
  let shown: string[];
  let release: (() => void)[];
  let over: Over | undefined;
  let states: boolean[];
  let connection: Connection;
  beforeEach(() => {
    vi.useFakeTimers();
    sockets = [];
    shown = [];
    release = [];
    over = undefined;
    states = [];
    vi.stubGlobal("fetch", () => Promise.reject(new Error("offline")));
    connection = new Connection({
      session: "ses_1",
      mode: "own",
      base: "wss://cp",
      socket: (url) => {
        const s = new Socket(url);
        sockets.push(s);
        return s as unknown as WebSocket;
      },
      events: {
        happened: (h, done) => {
          shown.push(new TextDecoder().decode(h.data));
          release.push(done);
        },
        connected: (on) => states.push(on),
        over: (why) => {
          over = why;
        },
      },
    });
  });
  afterEach(() => {
    connection.close();
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  it("tells what is on the screen only once it is", () => {
    const s = sockets[0]!;
    s.says("s");
    s.says("e", 40, output("hello"));
    expect(shown).toEqual(["hello"]);
    expect(s.sent).toEqual([]);
    release[0]!();
    expect(s.sent).toEqual(["c40:"]);
  });

  it("goes on at the byte where it was cut, and types again what nobody confirmed", async () => {
    const s = sockets[0]!;
    s.says("s");
    connection.resize(100, 30);
    connection.type(text.encode("ls -l\r"));
    s.says("a", 2); // "ls" was typed
    s.says("e", 77, output("ls"));
    release[0]!();
    s.cut();
    expect(states).toEqual([true, false]);
    connection.type(text.encode("pwd\r")); // into the void
    await vi.advanceTimersByTimeAsync(100);
    const again = sockets[1]!;
    expect(again.url).toContain("pos=77");
    expect(new URL(again.url).searchParams.get("origin")).toBe(new URL(s.url).searchParams.get("origin"));
    again.says("s");
    expect(again.sent).toEqual(["i2: -l\r", "i6:pwd\r", "r0:100x30"]);
    again.says("a", 10);
    again.cut();
    await vi.advanceTimersByTimeAsync(100);
    sockets[2]!.says("s");
    expect(sockets[2]!.sent).toEqual(["r0:100x30"]);
  });

  it("goes on with what it was given, and without a passkey", async () => {
    const s = sockets[0]!;
    expect(new URL(s.url).searchParams.has("again")).toBe(false);
    s.says("s");
    s.says("t", 0, text.encode("first"));
    s.says("t", 0, text.encode("second"));
    s.cut();
    await vi.advanceTimersByTimeAsync(100);
    expect(new URL(sockets[1]!.url).searchParams.get("again")).toBe("second");
  });

  it("asks why it was refused, and comes again where nothing is in the way", async () => {
    let status = 426;
    let said = { code: "upgrade_required", message: "" };
    vi.stubGlobal("fetch", () => Promise.resolve(new Response(JSON.stringify(said), { status })));
    sockets[0]!.cut();
    await vi.advanceTimersByTimeAsync(100);
    expect(over).toBeUndefined();
    expect(sockets.length).toBe(2);
    status = 403;
    said = { code: "step_up_required", message: "a passkey" };
    sockets[1]!.cut();
    await vi.advanceTimersByTimeAsync(5_000);
    expect(over).toMatchObject({ code: "step_up_required" });
  });

  it("takes a connection that confirms nothing for dead", async () => {
    sockets[0]!.says("s");
    connection.type(text.encode("x"));
    await vi.advanceTimersByTimeAsync(7_000);
    expect(sockets.length).toBe(2);
  });

  it("speaks before it is taken for gone", async () => {
    sockets[0]!.says("s");
    await vi.advanceTimersByTimeAsync(25_000);
    expect(sockets[0]!.sent.filter((m) => m.startsWith("c")).length).toBeGreaterThanOrEqual(2);
  });

  it("takes no more than can wait", () => {
    sockets[0]!.says("s");
    expect(connection.type(new Uint8Array(200 << 10))).toBe(true);
    expect(connection.type(new Uint8Array(100 << 10))).toBe(false);
  });

  it("ends when it is told so, and not when the control plane stops", async () => {
    sockets[0]!.says("s");
    sockets[0]!.says("x", 0, text.encode(JSON.stringify({ kind: "unavailable", code: "stopping", message: "restarting" })));
    sockets[0]!.cut();
    await vi.advanceTimersByTimeAsync(5_000);
    expect(over).toBeUndefined();
    const s = sockets.at(-1)!;
    s.says("s");
    s.says("x", 0, text.encode(JSON.stringify({ kind: "precondition", code: "session_ended", message: "it has ended" })));
    const dials = sockets.length;
    s.cut();
    await vi.advanceTimersByTimeAsync(5_000);
    expect(over).toMatchObject({ code: "session_ended" });
    expect(sockets.length).toBe(dials);
  });

  it("has a guest's secret in no address, and asks for nothing as who is signed in", async () => {
    connection.close();
    const asked: { url: string; with: RequestInit | undefined }[] = [];
    vi.stubGlobal("fetch", (url: string, init?: RequestInit) => {
      asked.push({ url, with: init });
      return Promise.resolve(new Response(JSON.stringify({ code: "guest_expired", message: "the link has expired" }), { status: 401 }));
    });
    let offered: string[] | undefined;
    let hello: unknown;
    connection = new Connection({
      session: "ses_1",
      mode: "watch",
      guest: "lbg_secret",
      base: "wss://cp",
      socket: (url, protocols) => {
        offered = protocols;
        const s = new Socket(url);
        sockets.push(s);
        return s as unknown as WebSocket;
      },
      events: { welcomed: (h) => (hello = h), happened: (_, done) => done(), connected: (on) => states.push(on), over: (why) => (over = why) },
    });
    const first = sockets.at(-1)!;
    expect(first.url).toBe("wss://cp/guest/v1/ses_1?pos=-1");
    expect(offered).toEqual(["loopback.guest.v1", "lbg_secret"]);
    first.says("s", 0, text.encode('{"host":"db-7","guest":"Jane"}'));
    expect(hello).toEqual({ host: "db-7", guest: "Jane" });
    first.says("e", 40, output("hello"));
    first.cut();
    await vi.advanceTimersByTimeAsync(100);
    const again = sockets.at(-1)!;
    expect(again.url).toBe("wss://cp/guest/v1/ses_1?pos=40");
    again.cut(); // before it was welcomed: why is asked
    await vi.advanceTimersByTimeAsync(0);
    expect(asked).toEqual([{ url: "https://cp/guest/v1/ses_1?pos=40", with: { credentials: "omit", headers: { Authorization: "Bearer lbg_secret" } } }]);
    expect(over?.code).toBe("guest_expired");
  });
});
