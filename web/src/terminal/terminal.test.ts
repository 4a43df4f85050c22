import { describe, expect, it } from "vitest";
import { parseCast, plain, search, withoutIdle } from "./cast";
import { decode, encode, happenings } from "./frames";

const text = new TextEncoder();

function frame(kind: string, micros: number, data: string): number[] {
  const time: number[] = [];
  for (let v = micros; ; v = Math.floor(v / 128)) {
    if (v < 128) {
      time.push(v);
      break;
    }
    time.push((v % 128) | 0x80);
  }
  const body = [kind.charCodeAt(0), ...time, ...text.encode(data)];
  return [body.length >> 16, (body.length >> 8) & 255, body.length & 255, ...body];
}

describe("what travels in a session", () => {
  it("is encoded and decoded alike", () => {
    const m = decode(encode("i", 2 ** 40 + 7, text.encode("ls\r")).buffer);
    expect(m).toMatchObject({ kind: "i", number: 2 ** 40 + 7 });
    expect(new TextDecoder().decode(m!.body)).toBe("ls\r");
    expect(decode(new ArrayBuffer(3))).toBeUndefined();
  });
  it("is read frame by frame, with its time", () => {
    const got = happenings(new Uint8Array([...frame("o", 1_500_000, "hello"), ...frame("r", 400_000_000_000, "80x24")]));
    expect(got.map((h) => [h.kind, h.at, new TextDecoder().decode(h.data)])).toEqual([
      ["o", 1.5, "hello"],
      ["r", 400_000, "80x24"],
    ]);
    const whole = frame("o", 5, "hello");
    for (let n = 1; n < whole.length; n++) expect(() => happenings(new Uint8Array(whole.slice(0, n)))).toThrow();
  });
});

describe("a recording", () => {
  const cast = parseCast(
    [
      `{"version":3,"term":{"cols":100,"rows":30},"title":"root@db-7"}`,
      `# a comment`,
      `[0.5, "o", "\\u001b[32mroot@db-7\\u001b[0m:~# cat /etc/pass"]`,
      `[0.5, "o", "wd\\r\\nroot:x:0:0\\r\\n"]`,
      `[60, "r", "120x40"]`,
      `[0.5, "o", "bye\\r\\n"]`,
      `[0.1, "x", "0"]`,
    ].join("\n"),
  );
  it("is read with its times added up", () => {
    expect(cast).toMatchObject({ cols: 100, rows: 30, title: "root@db-7" });
    expect(cast.steps.map((s) => s.at)).toEqual([0.5, 1, 61, 61.5, 61.6]);
  });
  it("is as good as what could be read of it", () => {
    expect(parseCast('{"version":3}\n[1,"o","a"]\n[1,"o","cut').steps).toHaveLength(1);
  });
  it("has no long pauses where they are skipped", () => {
    const short = withoutIdle(cast, 2);
    expect(short.steps.map((s) => s.at)).toEqual([0.5, 1, 3, 3.5, expect.closeTo(3.6)]);
    expect(withoutIdle(cast, 0)).toBe(cast);
  });
  it("is searched as it reads, across its pieces", () => {
    expect(search(cast, "ETC/PASSWD")).toEqual([{ at: 1, line: "root@db-7:~# cat /etc/passwd" }]);
    expect(search(cast, "32m")).toEqual([]);
    expect(search(cast, "")).toEqual([]);
  });
  it("reads plain", () => {
    expect(plain("\u001b]0;title\u0007\u001b[1;31mred\u001b[0m\u0007")).toBe("red");
  });
});
