// Lengths of time as people type them (90s, 15m, 36h, 30d) and as the API carries them.
import { create } from "@bufbuild/protobuf";
import { type Duration, DurationSchema } from "@bufbuild/protobuf/wkt";

const units: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86400 };

/** Seconds, or undefined where the text is no length of time. */
export function parseDuration(text: string): number | undefined {
  const trimmed = text.trim();
  if (!/^(\d+[smhd])+$/.test(trimmed)) return undefined;
  let seconds = 0;
  for (const [, count, unit] of trimmed.matchAll(/(\d+)([smhd])/g)) seconds += Number(count) * (units[unit ?? ""] ?? 0);
  return seconds;
}

export function toProto(seconds: number): Duration {
  return create(DurationSchema, { seconds: BigInt(Math.round(seconds)) });
}

export function seconds(d: Duration | undefined): number | undefined {
  return d === undefined ? undefined : Number(d.seconds) + d.nanos / 1e9;
}

/** Exact, without the units that say nothing: 36h, 90d, 1m30s. */
export function formatDuration(total: number): string {
  if (total >= 2 * 86400 && total % 86400 === 0) return `${total / 86400}d`;
  const parts: string[] = [];
  const whole = Math.round(total);
  const h = Math.floor(whole / 3600);
  const m = Math.floor((whole % 3600) / 60);
  const s = whole % 60;
  if (h) parts.push(`${h}h`);
  if (m) parts.push(`${m}m`);
  if (s || parts.length === 0) parts.push(`${s}s`);
  return parts.join("");
}

/** Rough, for how long ago or until: 12s, 5m, 3h, 8d. */
export function roughly(total: number): string {
  const t = Math.max(0, total);
  if (t < 60) return `${Math.floor(t)}s`;
  if (t < 3600) return `${Math.floor(t / 60)}m`;
  if (t < 2 * 86400) return `${Math.floor(t / 3600)}h`;
  return `${Math.floor(t / 86400)}d`;
}
