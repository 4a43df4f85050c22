// The fleet at a glance: how many in which state, what needs somebody and why, what just happened.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { api } from "../api/client";
import { useLive } from "../app/live";
import { paths } from "../app/paths";
import { usePlace } from "../app/place";
import { useSession } from "../app/session";
import { Ago, Card, Empty, Mark, Page, Problem, State, Waiting, cx, linkButton, useNow } from "../ui/basics";
import { roughly } from "../api/duration";
import { hostStates, lookOf } from "../ui/states";

export function Overview() {
  const { place, workspace } = usePlace();
  const { why } = useSession();
  const counts = useQuery({ queryKey: ["hosts", "count", workspace], queryFn: () => api.hosts.countHosts({ workspace }) });
  const total = Number(counts.data?.total ?? 0);
  const inPlace = { in: place?.path } as never;
  return (
    <Page title="Overview" about={place ? place.label : "all workspaces"} actions={<Link to={paths.enrol} search={inPlace} {...linkButton("primary", why("agent_tokens.mint"))}>Enrol a host</Link>}>
      {counts.error && <Problem error={counts.error} retry={() => void counts.refetch()} />}
      {counts.isPending ? (
        <Waiting rows={3} />
      ) : total === 0 ? (
        <Card>
          <Empty title="No host yet">
            <p>Mint a token, run one command on a server, and seconds later it is managed.</p>
            <Link to={paths.enrol} search={inPlace} {...linkButton("primary", why("agent_tokens.mint"))}>
              Enrol the first host
            </Link>
          </Empty>
        </Card>
      ) : (
        <>
          <States counts={counts.data?.byState ?? {}} total={total} />
          <div className="grid items-start gap-4 xl:grid-cols-[3fr_2fr]">
            <Attention workspace={workspace} />
            <div className="flex min-w-0 flex-col gap-4">
              <Recent />
              <Versions of={counts.data?.byVersion ?? {}} />
            </div>
          </div>
        </>
      )}
    </Page>
  );
}

function States({ counts, total }: { counts: Record<string, bigint>; total: number }) {
  const shown = hostStates.map((s) => [s, Number(counts[s] ?? 0)] as const).filter(([s, n]) => n > 0 || s === "managed" || s === "degraded" || s === "offline");
  return (
    <div className="grid grid-cols-2 gap-3 sm:grid-cols-[repeat(auto-fill,minmax(9.5rem,1fr))]">
      <Tile label="all hosts" n={total} search={{}} />
      {shown.map(([state, n]) => (
        <Tile key={state} state={state} label={state} n={n} search={{ state }} />
      ))}
    </div>
  );
}

function Tile({ label, n, state, search }: { label: string; n: number; state?: string; search: { state?: string } }) {
  return (
    <Link to={paths.hosts} search={((old: { in?: string }) => ({ in: old.in, ...search })) as never} className="rounded-lg border border-line bg-card px-4 py-3 hover:border-edge">
      <span className="block text-[24px] leading-8 font-semibold tabular-nums">{n.toLocaleString()}</span>
      <span className={cx("flex items-center gap-1.5 text-[13px]", state && n > 0 ? lookOf(state).tone : "text-soft")}>
        {state && <Mark state={state} />}
        {label}
      </span>
    </Link>
  );
}

const troubled = ["degraded", "offline", "pending", "quarantined"];

function Attention({ workspace }: { workspace: string }) {
  const found = useQuery({
    queryKey: ["hosts", "count", "attention", workspace],
    queryFn: () => api.hosts.listHosts({ workspace, states: troubled, orderBy: "-since", page: { size: 12 } }),
  });
  const items = found.data?.items ?? [];
  const rest = Number(found.data?.total ?? 0) - items.length;
  return (
    <Card title="Needs attention" flush>
      {found.error && <Problem error={found.error} retry={() => void found.refetch()} />}
      {found.isPending ? (
        <Waiting />
      ) : !found.data ? null : items.length === 0 ? (
        <Empty title="Nothing does">
          <p>Every host is linked, configured and healthy.</p>
        </Empty>
      ) : (
        <ul className="divide-y divide-line/70">
          {items.map((h) => (
            <li key={h.id}>
              <Link to={paths.host(h.id) as never} search={((old: { in?: string }) => ({ in: old.in })) as never} className="grid grid-cols-[7.5rem_1fr_auto] items-center gap-x-3 px-4 py-2.5 hover:bg-sunk/70">
                <State of={h.state} />
                <span className="min-w-0">
                  <span className="block truncate font-medium">{h.name}</span>
                  <span className="block truncate text-[12px] text-soft" title={h.reason}>
                    {h.reason || lookOf(h.state).means}
                  </span>
                </span>
                <span className="text-[12px] text-soft">
                  <Ago at={h.since} />
                </span>
              </Link>
            </li>
          ))}
        </ul>
      )}
      {rest > 0 && (
        <p className="border-t border-line px-4 py-2">
          <Link to={paths.hosts} search={((old: { in?: string }) => ({ in: old.in, q: `state in (${troubled.join(", ")})`, sort: "-since" })) as never} className="text-accent hover:underline">
            and {rest.toLocaleString()} more
          </Link>
        </p>
      )}
    </Card>
  );
}

function Recent() {
  const { recent } = useLive();
  const now = useNow();
  return (
    <Card title="Since you opened this" flush>
      {recent.length === 0 ? (
        <p className="px-4 py-3 text-soft">No host has changed its state. Changes appear here as they happen.</p>
      ) : (
        <ol aria-live="polite" className="max-h-72 divide-y divide-line/70 overflow-auto">
          {recent.map((r) => (
            <li key={r.key} className="flex items-center gap-2 px-4 py-2">
              <Link to={paths.host(r.host.id) as never} className="min-w-0 flex-1 truncate hover:underline">
                {r.host.name}
              </Link>
              <span className="text-[12px] text-soft">{r.from} →</span>
              <State of={r.host.state} reason={r.host.reason} />
              <span className="w-12 text-right text-[12px] text-soft tabular-nums">{roughly((now - r.at.getTime()) / 1000)}</span>
            </li>
          ))}
        </ol>
      )}
    </Card>
  );
}

function Versions({ of }: { of: Record<string, bigint> }) {
  const all = Object.entries(of)
    .map(([version, n]) => [version, Number(n)] as const)
    .sort(([a], [b]) => b.localeCompare(a, undefined, { numeric: true }));
  const most = Math.max(1, ...all.map(([, n]) => n));
  if (all.length === 0) return null;
  return (
    <Card title="Agent versions">
      <table className="w-full">
        <tbody>
          {all.map(([version, n]) => (
            <tr key={version}>
              <th scope="row" className="w-24 py-0.5 pr-3 text-left font-mono text-[12.5px] font-normal">
                <Link to={paths.hosts} search={((old: { in?: string }) => ({ in: old.in, q: `version=${version}` })) as never} className="hover:underline">
                  {version}
                </Link>
              </th>
              <td aria-hidden>
                <progress value={n} max={most} className="h-2 w-full appearance-none overflow-hidden rounded-full bg-sunk accent-accent [&::-webkit-progress-bar]:bg-sunk [&::-webkit-progress-value]:bg-accent [&::-moz-progress-bar]:bg-accent" />
              </td>
              <td className="w-16 pl-3 text-right tabular-nums">{n.toLocaleString()}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Card>
  );
}
