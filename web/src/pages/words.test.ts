import { describe, expect, it } from "vitest";
import { line, words } from "./words";

describe("a command's words", () => {
  it.each([
    ["uptime", ["uptime"]],
    ["  df  -h\t/ ", ["df", "-h", "/"]],
    [`grep 'a b' "c \\"d\\" $x" e\\ f ''`, ["grep", "a b", 'c "d" $x', "e f", ""]],
    [`a'b'"c"d`, ["abcd"]],
    ["", []],
  ])("%s", (text, want) => expect(words(text)).toEqual(want));
  it("lack no quote", () => expect(() => words("echo 'a")).toThrow("has no second one"));
  it("come back from the line that is made of them", () => {
    for (const args of [["echo", "it's", "$HOME", "", "a b", "-x=/tmp/y"], ["\\", "'", '"']]) expect(words(line(args))).toEqual(args);
  });
});
