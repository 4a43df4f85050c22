import { Mark, cx } from "../../ui/basics";
import { lookOf } from "../../ui/states";
import type { Step } from "./prove";

/** What was checked, and what it rests on. */
export function Steps({ of }: { of: Step[] }) {
  return (
    <ol role="status" aria-label="what was verified" className="flex flex-col gap-2 empty:hidden">
      {of.map((s) => {
        const state = s.ok ? "done" : "refused";
        return (
          <li key={s.what} className="flex items-start gap-2">
            <span className={cx("mt-1.5", lookOf(state).tone)}>
              <Mark state={state} />
            </span>
            <span className="min-w-0">
              <span className={cx("wrap-anywhere", !s.ok && "font-medium text-bad")}>{s.what}</span>
              {s.about && <span className="block text-[12px] text-soft">{s.about}</span>}
            </span>
          </li>
        );
      })}
    </ol>
  );
}
