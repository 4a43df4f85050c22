// Every host, found by one query, sorted and paged by the server. The address holds it all.
import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { api } from "../api/client";
import type { Host } from "../api/gen/loopback/v1/host_pb";
import { paths } from "../app/paths";
import { usePlace } from "../app/place";
import { hostsRoute } from "../app/router";
import { useSession } from "../app/session";
import { Ago, Button, Card, Dialog, Empty, Input, Labels, Page, Problem, Select, State, Waiting, linkButton } from "../ui/basics";
import { hostStates } from "../ui/states";
import { Table, unread, type Column } from "../ui/table";
import { HostActs, type Act } from "./hostacts";

const columns: Column<Host>[] = [
  {
    key: "name",
    head: "Name",
    width: "minmax(11rem,2fr)",
    sort: "name",
    cell: (h) => (
      <Link to={paths.host(h.id) as never} search={((old: { in?: string }) => ({ in: old.in })) as never} className="font-medium hover:underline" title={h.name}>
        {h.name}
      </Link>
    ),
  },
  { key: "state", head: "State", width: "9rem", sort: "state", cell: (h) => <State of={h.state} reason={h.reason} /> },
  { key: "since", head: "Since", width: "6.5rem", sort: "since", narrow: "hide", cell: (h) => <Ago at={h.since} /> },
  { key: "reason", head: "Reason", width: "minmax(8rem,2fr)", narrow: "hide", cell: (h) => <span className="text-soft" title={h.reason}>{h.reason}</span> },
  { key: "labels", head: "Labels", width: "minmax(8rem,2fr)", narrow: "hide", cell: (h) => <Labels of={h.labels} /> },
  { key: "version", head: "Agent", width: "minmax(6rem,1fr)", sort: "agent_version", narrow: "hide", cell: (h) => <span className="font-mono text-[12.5px]">{h.agentVersion}</span> },
  { key: "os", head: "System", width: "minmax(8rem,1fr)", narrow: "hide", cell: (h) => <span className="text-soft">{h.inventory?.osName}</span> },
  { key: "seen", head: "Last seen", width: "6.5rem", sort: "last_seen_at", narrow: "hide", cell: (h) => <Ago at={h.lastSeenAt} /> },
  { key: "enrolled", head: "Enrolled", width: "6.5rem", sort: "created_at", narrow: "hide", cell: (h) => <Ago at={h.createdAt} /> },
  { key: "kernel", head: "Kernel", width: "minmax(7rem,1fr)", narrow: "hide", cell: (h) => <span className="font-mono text-[12.5px]">{h.inventory?.kernel}</span> },
  { key: "arch", head: "Processor", width: "6rem", narrow: "hide", cell: (h) => h.inventory?.architecture },
  { key: "address", head: "Address", width: "minmax(8rem,1fr)", narrow: "hide", cell: (h) => <span className="font-mono text-[12.5px]">{h.address}</span> },
  { key: "channel", head: "Channel", width: "6rem", narrow: "hide", cell: (h) => h.channel },
  { key: "id", head: "Id", width: "15rem", narrow: "hide", cell: (h) => <span className="font-mono text-[12.5px]">{h.id}</span> },
];

/** The columns that are shown unless the address says others. */
const usual = ["name", "state", "since", "reason", "labels", "version", "os"];

export function HostList() {
  const search = hostsRoute.useSearch();
  const navigate = useNavigate();
  const queries = useQueryClient();
  const { workspace, place } = usePlace();
  const { why } = useSession();
  const [selected, setSelected] = useState<ReadonlySet<string>>(new Set());
  const [act, setAct] = useState<Act>();
  const [whole, setWhole] = useState<Host[]>(); // all that matches, fetched to act on it; more than is shown
  const [gathering, setGathering] = useState<{ done: number; stop: AbortController }>();
  const [trouble, setTrouble] = useState<unknown>();
  const order = search.sort ?? "name";
  const state = search.state ?? "";
  const shown = search.cols === undefined ? usual : ["name", ...search.cols.split(",")];
  const query = search.q ?? "";
  const set = useCallback((change: Record<string, string | undefined>) => void navigate({ to: ".", search: ((old: object) => ({ ...old, ...change })) as never, replace: true }), [navigate]);
  const list = useInfiniteQuery({
    queryKey: ["hosts", "list", workspace, query, state, order],
    queryFn: ({ pageParam, signal }) => api.hosts.listHosts({ workspace, query, states: state ? [state] : [], orderBy: order, page: { size: 200, token: pageParam } }, { signal }),
    initialPageParam: "",
    getNextPageParam: (last) => last.nextPageToken || undefined,
    placeholderData: (old) => old,
    retry: false,
  });
  const rows = useMemo(() => list.data?.pages.flatMap((p) => p.items) ?? unread, [list.data]);
  const total = Number(list.data?.pages[0]?.total ?? 0);
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  const more = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);
  const clear = useCallback(() => {
    setSelected(new Set());
    setWhole(undefined);
    setTrouble(undefined);
    setGathering((g) => void g?.stop.abort());
  }, []);
  useEffect(clear, [clear, workspace, query, state]);
  const chosen = (whole ?? rows).filter((h) => selected.has(h.id));
  async function selectWhole() {
    const stop = new AbortController();
    setGathering({ done: 0, stop });
    setTrouble(undefined);
    try {
      const all: Host[] = [];
      let token = "";
      do {
        const page = await api.hosts.listHosts({ workspace, query, states: state ? [state] : [], orderBy: order, page: { size: 1000, token } }, { signal: stop.signal });
        all.push(...page.items);
        token = page.nextPageToken;
        if (!stop.signal.aborted) setGathering({ done: all.length, stop });
      } while (token);
      if (stop.signal.aborted) return;
      setWhole(all);
      setSelected(new Set(all.map((h) => h.id)));
    } catch (error) {
      if (!stop.signal.aborted) setTrouble(error);
    }
    setGathering((g) => (g?.stop === stop ? undefined : g));
  }
  const filtered = query !== "" || state !== "";
  return (
    <Page
      title="Hosts"
      about={`${total.toLocaleString()} ${filtered ? "match" : total === 1 ? "host" : "hosts"}${place ? ` in ${place.label}` : ""}`}
      actions={
        <Link to={paths.enrol} search={((old: { in?: string }) => ({ in: old.in })) as never} {...linkButton("primary", why("agent_tokens.mint"))}>
          Enrol a host
        </Link>
      }
    >
      <div className="flex flex-wrap gap-2">
        <QueryBox value={query} set={(q) => set({ q: q || undefined })} />
        <Select aria-label="state" value={state} onChange={(e) => set({ state: e.target.value || undefined })} className="w-48!">
          <option value="">All but removed</option>
          {hostStates.map((s) => (
            <option key={s} value={s}>
              {s}
            </option>
          ))}
        </Select>
        <Chooser of={columns} shown={shown} set={(keys) => set({ cols: keys.join() === usual.join() ? undefined : keys.filter((k) => k !== "name").join() || "name" })} />
      </div>
      {list.error && <Problem error={list.error} retry={() => void list.refetch()} />}
      {selected.size > 0 && (
        <div role="toolbar" aria-label="selected hosts" className="flex flex-wrap items-center gap-2 rounded-lg border border-accent/40 bg-accent-wash px-3 py-2">
          <span className="font-medium">{selected.size.toLocaleString()} selected</span>
          {total > selected.size && rows.every((h) => selected.has(h.id)) && (
            <Button kind="quiet" busy={gathering !== undefined} onClick={() => void selectWhole()}>
              {gathering ? `Reading ${gathering.done.toLocaleString()} of ${total.toLocaleString()}` : `Select all ${total.toLocaleString()} ${filtered ? "that match" : "hosts"}`}
            </Button>
          )}
          <Button why={why("hosts.approve")} disabled={!chosen.some((h) => h.state === "pending")} onClick={() => setAct("approve")}>
            Approve
          </Button>
          <Button why={why("hosts.quarantine")} onClick={() => setAct("quarantine")}>
            Quarantine
          </Button>
          <Button why={why("hosts.release")} disabled={!chosen.some((h) => h.state === "quarantined")} onClick={() => setAct("release")}>
            Release
          </Button>
          <Button kind="danger" why={why("hosts.remove")} onClick={() => setAct("remove")}>
            Remove
          </Button>
          <Button kind="quiet" onClick={clear}>
            Clear
          </Button>
        </div>
      )}
      {trouble !== undefined && <Problem error={trouble} retry={() => void selectWhole()} />}
      <Card flush>
        {list.isPending ? (
          <Waiting rows={10} />
        ) : (
          <Table
            label="hosts"
            columns={columns.filter((c) => shown.includes(c.key))}
            rows={rows}
            id={(h) => h.id}
            total={total}
            order={order}
            setOrder={(o) => set({ sort: o === "name" ? undefined : o })}
            open={(h) => void navigate({ to: paths.host(h.id) as never, search: ((old: { in?: string }) => ({ in: old.in })) as never })}
            selected={selected}
            toggle={(id) =>
              setSelected((old) => {
                const now = new Set(old);
                if (!now.delete(id)) now.add(id);
                return now;
              })
            }
            toggleAll={() => setSelected((old) => (rows.every((r) => old.has(r.id)) ? new Set() : new Set(rows.map((r) => r.id))))}
            more={more}
            empty={
              filtered ? (
                <Empty title="No host matches">
                  <Button onClick={() => set({ q: undefined, state: undefined })}>Show all hosts</Button>
                </Empty>
              ) : (
                <Empty title="No host yet">
                  <p>Mint a token, run one command on a server, and it appears here.</p>
                </Empty>
              )
            }
          />
        )}
      </Card>
      {act && (
        <HostActs
          act={act}
          hosts={chosen}
          query={whole && { text: query, state }}
          close={() => {
            setAct(undefined);
            if (whole) clear();
            void queries.invalidateQueries({ queryKey: ["hosts"] });
          }}
        />
      )}
    </Page>
  );
}

/** Which columns are shown, on a screen that is wide enough for more than the first. */
function Chooser({ of, shown, set }: { of: Column<Host>[]; shown: string[]; set: (keys: string[]) => void }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Button className="max-sm:hidden" onClick={() => setOpen(true)}>
        Columns
      </Button>
      <Dialog title="Columns" open={open} close={() => setOpen(false)}>
        <ul className="grid grid-cols-2 gap-2">
          {of.map((c) => (
            <li key={c.key}>
              <label className="flex items-center gap-2">
                <input
                  type="checkbox"
                  name={c.key}
                  checked={shown.includes(c.key)}
                  disabled={c.key === "name"}
                  onChange={(e) => set(of.map((x) => x.key).filter((k) => (k === c.key ? e.target.checked : shown.includes(k))))}
                />
                {c.head}
              </label>
            </li>
          ))}
        </ul>
        <div className="flex justify-end gap-2">
          <Button onClick={() => set(usual)}>The usual ones</Button>
          <Button kind="primary" onClick={() => setOpen(false)}>
            Done
          </Button>
        </div>
      </Dialog>
    </>
  );
}

/** What is typed is asked for after a short rest; the address follows, so that it can be sent to somebody. */
function QueryBox({ value, set }: { value: string; set: (q: string) => void }) {
  const [text, setText] = useState(value);
  const asked = useRef(value);
  const timer = useRef(0);
  useEffect(() => {
    if (value === asked.current) return; // the address follows what is typed, which has gone on meanwhile
    asked.current = value;
    window.clearTimeout(timer.current);
    setText(value);
  }, [value]);
  const type = (typed: string) => {
    setText(typed);
    window.clearTimeout(timer.current);
    timer.current = window.setTimeout(() => {
      asked.current = typed.trim();
      set(asked.current);
    }, 80);
  };
  return (
    <div className="min-w-56 flex-1">
      <Input type="search" aria-label="query" placeholder="web and state in (offline, degraded) and not label.env=prod" title="Fields: name, id, state, reason, version, channel, provider, address, label.KEY. Signs: = != ~ !~ in (…), and, or, not." value={text} onChange={(e) => type(e.target.value)} />
    </div>
  );
}
