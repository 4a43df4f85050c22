import { timestampDate, type Timestamp } from "@bufbuild/protobuf/wkt";
import { roughly } from "../../api/duration";
import { useNow } from "../../ui/basics";

/** How much is left of a time that has begun. */
export function Left({ from, until }: { from: Timestamp | undefined; until: Timestamp | undefined }) {
  const now = useNow();
  if (!until) return null;
  const end = timestampDate(until).getTime();
  const whole = Math.max(1, end - (from ? timestampDate(from).getTime() : now));
  const left = Math.max(0, end - now);
  return (
    <span className="flex items-center gap-2 tabular-nums" title={`until ${new Date(end).toLocaleString()}`}>
      <progress aria-label="time left" max={whole} value={left} className="h-1.5 w-12 appearance-none overflow-hidden rounded-full bg-sunk [&::-moz-progress-bar]:bg-good [&::-webkit-progress-bar]:bg-line [&::-webkit-progress-value]:bg-good" />
      {left > 0 ? `${roughly(left / 1000)} left` : "over"}
    </span>
  );
}
