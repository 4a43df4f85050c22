import { describe, expect, it } from "vitest";
import { formatDuration, parseDuration, roughly } from "./duration";

describe("lengths of time", () => {
  it("are read as people type them", () => {
    expect(parseDuration("90s")).toBe(90);
    expect(parseDuration(" 1h30m ")).toBe(5400);
    expect(parseDuration("30d")).toBe(30 * 86400);
    for (const wrong of ["", "5", "h", "1w", "-1h", "1h ago", "1.5h"]) expect(parseDuration(wrong), wrong).toBeUndefined();
  });
  it("are written without what says nothing, and read back as they were", () => {
    for (const [value, want] of [[0, "0s"], [90, "1m30s"], [3600, "1h"], [36 * 3600, "36h"], [90 * 86400, "90d"]] as const) {
      expect(formatDuration(value)).toBe(want);
      expect(parseDuration(want)).toBe(value);
    }
  });
  it("are rough where nobody counts", () => {
    expect([0, 59.9, 60, 3599, 47 * 3600, 8 * 86400].map(roughly)).toEqual(["0s", "59s", "1m", "59m", "47h", "8d"]);
    expect(roughly(-5)).toBe("0s");
  });
});
