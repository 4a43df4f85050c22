// The pages of one noun, side by side.
import { Link } from "@tanstack/react-router";
import type { Group } from "./pages";
import { useSession } from "./session";

export function Tabs({ of }: { of: Group }) {
  const { may } = useSession();
  return (
    <nav aria-label={of.label} className="-mb-px flex flex-wrap gap-x-1 border-b border-line">
      {of.pages
        .filter((p) => may(p.needs))
        .map((p) => (
          <Link key={p.to} to={p.to} search={((old: { in?: string }) => ({ in: old.in })) as never} activeOptions={{ exact: true, includeSearch: false }} activeProps={{ "aria-current": "page", className: "border-accent font-medium text-accent" }} inactiveProps={{ className: "border-transparent text-soft hover:text-ink" }} className="-mb-px border-b-2 px-3 py-2">
            {p.label}
          </Link>
        ))}
    </nav>
  );
}
