import { expect, test } from "vitest";
import { command, quoted } from "./shell";

test("what a shell would read otherwise is quoted", () => {
  expect(quoted("acme/shop/prod")).toBe("acme/shop/prod");
  expect(quoted("*")).toBe("'*'");
  expect(quoted("it's $HOME")).toBe("'it'\\''s $HOME'");
  expect(quoted("")).toBe("''");
});

test("a command leaves out what is not said, and repeats what is said of several", () => {
  expect(command("binding create", [["user", "ada"], ["deny", false], ["everywhere", true], ["hosts", ""], ["from-address", ["10.0.0.0/8", "::1/128"]]])).toBe("loopback binding create --user ada --everywhere --from-address 10.0.0.0/8 --from-address ::1/128");
});
