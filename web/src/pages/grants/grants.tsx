// Roles for a while: asked for, decided by others, over by themselves.
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import { grants as api } from "../../api/grants";
import { formatDuration, seconds } from "../../api/duration";
import type { Grant } from "../../api/gen/loopback/v1/grant_pb";
import { useWaiting } from "../../app/attention";
import { usePages, useShown } from "../../app/list";
import { grants } from "../../app/pages";
import { useSession } from "../../app/session";
import { atOf, spotOf, SpotSelect, useSpots } from "../../app/spot";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Empty, Page, Problem, Select, State, Waiting } from "../../ui/basics";
import { Table, type Column } from "../../ui/table";
import { AskForm } from "./askform";
import { GrantDialog } from "./grant";
import { Left } from "./left";

const shows = {
  waiting: { label: "Waiting", states: ["pending"], empty: "No request waits" },
  live: { label: "In force", states: ["active"], empty: "No grant is in force" },
  past: { label: "Past", states: ["denied", "cancelled", "expired", "ended", "revoked", "returned"], empty: "No grant is past" },
  all: { label: "All", states: [] as string[], empty: "No grant yet" },
} as const;

type Show = keyof typeof shows;

export function Grants() {
  const { why, who } = useSession();
  const { called } = useSpots();
  const queries = useQueryClient();
  const search = useSearch({ strict: false }) as { show?: string; mine?: string; open?: string; at?: string };
  const navigate = useNavigate();
  const [asking, setAsking] = useState(false);
  const waiting = new Set(useWaiting().map((g) => g.id));
  const show: Show = search.show && search.show in shows ? (search.show as Show) : "all";
  const at = search.at ?? "";
  const mine = search.mine !== undefined;
  const set = (change: object) => void navigate({ to: ".", search: ((old: object) => ({ ...old, ...change })) as never, replace: true });
  const list = usePages(["grants", "list", at, show, mine, who.principalId], (token) => api.listGrants({ ...atOf(at), states: [...shows[show].states], subject: mine ? who.principalId : "", page: { size: 200, token } }));
  // One's own request that is open is waited for: its end may come where nothing else of the place is one's to see.
  const own = list.rows.find((g) => g.state === "pending" && g.subjectId === who.principalId)?.id;
  useEffect(() => {
    if (!own) return;
    const stop = new AbortController();
    api
      .waitGrant({ grant: own }, { signal: stop.signal })
      .then(() => queries.invalidateQueries({ queryKey: ["grants"] }))
      .catch(() => undefined);
    return () => stop.abort();
  }, [own, queries]);
  const columns: Column<Grant>[] = [
    {
      key: "who",
      head: "Who",
      width: "minmax(9rem,1fr)",
      cell: (g) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => set({ open: g.id })} title={g.subjectName}>
          {g.subjectId === who.principalId ? "you" : g.subjectName}
        </button>
      ),
    },
    { key: "role", head: "Role", width: "minmax(7rem,1fr)", cell: (g) => <span title={g.roleName}>{g.roleName}</span> },
    { key: "state", head: "State", width: "8rem", cell: (g) => <State kind="grant" of={g.state} reason={g.comment} /> },
    {
      key: "time",
      head: "Time",
      width: "8.5rem",
      narrow: "hide",
      cell: (g) => (g.state === "active" ? <Left from={g.beganAt} until={g.notAfter} /> : g.state === "pending" ? <span className="text-soft">for {formatDuration(seconds(g.duration) ?? 0)}</span> : <Ago at={g.endedAt ?? g.updatedAt} />),
    },
    { key: "where", head: "Where", width: "minmax(8rem,1fr)", narrow: "hide", cell: (g) => <span title={called(spotOf(g.scope))}>{called(spotOf(g.scope))} {g.hosts && <span className="font-mono text-[12px] text-soft">{g.hosts}</span>}</span> },
    { key: "ticket", head: "Ticket", width: "6rem", narrow: "hide", cell: (g) => <span title={g.ticket}>{g.ticket}</span> },
    { key: "reason", head: "Why", width: "minmax(8rem,2fr)", narrow: "hide", cell: (g) => <span className="text-soft" title={g.reason}>{g.reason}</span> },
    {
      key: "act",
      head: <span className="sr-only">to do</span>,
      width: "7rem",
      narrow: "hide", // the name opens it, too
      cell: (g) =>
        waiting.has(g.id) && (
          <Button kind="primary" aria-label={`Decide: ${g.subjectName} asks for ${g.roleName}`} onClick={() => set({ open: g.id })}>
            Decide
          </Button>
        ),
    },
  ];
  const shown = useShown(list.rows, search.open, "grants", (grant) => api.getGrant({ grant }));
  const ask = (
    <Button kind="primary" why={why("grants.request")} onClick={() => setAsking(true)}>
      Ask for a role
    </Button>
  );
  return (
    <Page title="Grants" about="Roles for a while: asked for with a reason, decided by others, over by themselves." actions={ask}>
      <Tabs of={grants} />
      <div className="flex flex-wrap items-center gap-3">
        <Select aria-label="which" value={show} onChange={(e) => set({ show: e.target.value === "all" ? undefined : e.target.value })} className="w-40!">
          {(["all", "waiting", "live", "past"] as const).map((s) => (
            <option key={s} value={s}>
              {shows[s].label}
            </option>
          ))}
        </Select>
        <SpotSelect aria-label="place" value={at} set={(v) => set({ at: v || undefined })} everywhere="In all places" className="w-64!" />
        {who.principalId && (
          <label className="flex items-center gap-2">
            <input type="checkbox" name="mine" checked={mine} onChange={(e) => set({ mine: e.target.checked ? "1" : undefined })} />
            only mine
          </label>
        )}
        {waiting.size > 0 && <p className="font-medium text-odd">{waiting.size === 1 ? "1 waits for you" : `${waiting.size.toLocaleString()} wait for you`}</p>}
      </div>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table
            label="grants"
            columns={columns}
            rows={list.rows}
            id={(g) => g.id}
            more={list.more}
            open={(g) => set({ open: g.id })}
            empty={
              <Empty title={shows[show].empty}>
                {show === "all" && !mine && !at ? <p>What is powerful and rarely needed is better asked for than held. What can be asked for is said by policies.</p> : <Button onClick={() => set({ show: undefined, mine: undefined, at: undefined })}>Show all grants</Button>}
              </Empty>
            }
          />
        )}
      </Card>
      {asking && (
        <AskForm
          close={() => setAsking(false)}
          done={(id) => {
            setAsking(false);
            set({ open: id });
          }}
        />
      )}
      {shown && <GrantDialog key={shown.id} g={shown} close={() => set({ open: undefined })} />}
    </Page>
  );
}
