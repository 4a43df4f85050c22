// Who did what, to what, when, from where and why.
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import { api } from "../api/client";
import type { AuditEntry } from "../api/gen/loopback/v1/audit_pb";
import { usePages } from "../app/list";
import { audit } from "../app/pages";
import { usePlace } from "../app/place";
import { Tabs } from "../app/tabs";
import { Ago, Button, Card, Empty, Input, Page, Problem, State, Waiting } from "../ui/basics";
import { Table, type Column } from "../ui/table";
import { Entry, EntryAlone } from "./audit/entry";

export function Audit() {
  const { workspace } = usePlace();
  const search = useSearch({ strict: false }) as { action?: string; target?: string; actor?: string; open?: string };
  const navigate = useNavigate();
  const { action = "", target = "", actor = "" } = search;
  const list = usePages(["audit", "list", workspace, action, target, actor], (token) => api.audit.listEntries({ workspace, action, target, actor, page: { size: 200, token } }));
  const set = (change: object) => void navigate({ to: ".", search: ((old: object) => ({ ...old, ...change })) as never, replace: true });
  const columns: Column<AuditEntry>[] = [
    { key: "at", head: "When", width: "6.5rem", cell: (e) => <Ago at={e.at} /> },
    { key: "actor", head: "Who", width: "minmax(8rem,1fr)", cell: (e) => <span title={e.actor?.id}>{e.actor?.name || e.actor?.kind}</span> },
    {
      key: "action",
      head: "Did",
      width: "minmax(10rem,1fr)",
      cell: (e) => (
        <button type="button" title={e.action} className="font-mono text-[12.5px] hover:underline" onClick={() => set({ open: e.id })}>
          {e.action}
        </button>
      ),
    },
    { key: "target", head: "To", width: "minmax(9rem,2fr)", narrow: "hide", cell: (e) => <span title={e.target}>{e.targetName || e.target}</span> },
    { key: "outcome", head: "Outcome", width: "7rem", narrow: "hide", cell: (e) => <State of={e.outcome} /> },
    { key: "from", head: "From", width: "8rem", narrow: "hide", cell: (e) => <span className="font-mono text-[12.5px]">{e.actor?.address}</span> },
    { key: "reason", head: "Why", width: "minmax(8rem,2fr)", narrow: "hide", cell: (e) => <span className="text-soft" title={e.reason}>{e.reason}</span> },
  ];
  const shown = list.rows.find((e) => e.id === search.open);
  return (
    <Page title="Audit log" about="Every change and every refusal, written in the same transaction as what it describes.">
      <Tabs of={audit} />
      <div className="grid gap-2 sm:grid-cols-3">
        <Rested label="action" placeholder="action: hosts.remove" value={action} set={(v) => set({ action: v })} />
        <Rested label="target id" placeholder="target: hst_…" value={target} set={(v) => set({ target: v })} />
        <Rested label="actor id" placeholder="actor: key_…" value={actor} set={(v) => set({ actor: v })} />
      </div>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>{list.pending ? <Waiting /> : <Table label="audit entries" columns={columns} rows={list.rows} id={(e) => e.id} more={list.more} open={(e) => set({ open: e.id })} empty={<Empty title="No entry matches">{<Button onClick={() => set({ action: undefined, target: undefined, actor: undefined })}>Show all entries</Button>}</Empty>} />}</Card>
      {search.open && (shown ? <Entry key={shown.id} e={shown} close={() => set({ open: undefined })} /> : !list.pending && <EntryAlone key={search.open} id={search.open} close={() => set({ open: undefined })} />)}
    </Page>
  );
}

function Rested({ label, placeholder, value, set }: { label: string; placeholder: string; value: string; set: (v: string | undefined) => void }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  return <Input type="search" aria-label={label} placeholder={placeholder} value={text} onChange={(e) => setText(e.target.value)} onBlur={() => text.trim() !== value && set(text.trim() || undefined)} onKeyDown={(e) => e.key === "Enter" && set(text.trim() || undefined)} />;
}
