// Who did what, to what, when, from where and why.
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import { toJson } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { api } from "../api/client";
import type { AuditEntry } from "../api/gen/loopback/v1/audit_pb";
import { usePages } from "../app/list";
import { usePlace } from "../app/place";
import { Ago, Button, Card, Dialog, Empty, Facts, Input, Page, Problem, State, Waiting } from "../ui/basics";
import { Table, type Column } from "../ui/table";

export function Audit() {
  const { workspace } = usePlace();
  const search = useSearch({ strict: false }) as { action?: string; target?: string; actor?: string };
  const navigate = useNavigate();
  const [open, setOpen] = useState<AuditEntry>();
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
        <button type="button" className="font-mono text-[12.5px] hover:underline" onClick={() => setOpen(e)}>
          {e.action}
        </button>
      ),
    },
    { key: "target", head: "To", width: "minmax(9rem,2fr)", narrow: "hide", cell: (e) => <span title={e.target}>{e.targetName || e.target}</span> },
    { key: "outcome", head: "Outcome", width: "7rem", narrow: "hide", cell: (e) => <State of={e.outcome} /> },
    { key: "from", head: "From", width: "8rem", narrow: "hide", cell: (e) => <span className="font-mono text-[12.5px]">{e.actor?.address}</span> },
    { key: "reason", head: "Why", width: "minmax(8rem,2fr)", narrow: "hide", cell: (e) => <span className="text-soft" title={e.reason}>{e.reason}</span> },
  ];
  return (
    <Page title="Audit log" about="Every change and every refusal, written in the same transaction as what it describes.">
      <div className="grid gap-2 sm:grid-cols-3">
        <Rested label="action" placeholder="action: hosts.remove" value={action} set={(v) => set({ action: v })} />
        <Rested label="target id" placeholder="target: hst_…" value={target} set={(v) => set({ target: v })} />
        <Rested label="actor id" placeholder="actor: key_…" value={actor} set={(v) => set({ actor: v })} />
      </div>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>{list.pending ? <Waiting /> : <Table label="audit entries" columns={columns} rows={list.rows} id={(e) => e.id} more={list.more} open={setOpen} empty={<Empty title="No entry matches" />} />}</Card>
      {open && <Entry e={open} close={() => setOpen(undefined)} />}
    </Page>
  );
}

function Rested({ label, placeholder, value, set }: { label: string; placeholder: string; value: string; set: (v: string | undefined) => void }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  return <Input type="search" aria-label={label} placeholder={placeholder} value={text} onChange={(e) => setText(e.target.value)} onBlur={() => text.trim() !== value && set(text.trim() || undefined)} onKeyDown={(e) => e.key === "Enter" && set(text.trim() || undefined)} />;
}

function Entry({ e, close }: { e: AuditEntry; close: () => void }) {
  const json = (v: AuditEntry["before"]) => (v ? JSON.stringify(toJson(ValueSchema, v), null, 2) : "–");
  return (
    <Dialog title={e.action} open close={close}>
      <Facts
        of={[
          ["Outcome", <State key="o" of={e.outcome} />],
          ["When", <Ago key="w" at={e.at} />],
          ["Who", `${e.actor?.name || e.actor?.kind} (${e.actor?.id || e.actor?.kind})`],
          ["On behalf of", e.actor?.principal],
          ["Second factor", e.actor?.mfaAt && <Ago key="m" at={e.actor.mfaAt} />],
          ["From", e.actor?.address],
          ["To", e.targetName ? `${e.targetName} (${e.target})` : e.target],
          ["Why", e.reason],
          ["Ticket", e.ticket],
          ["Allowed by", e.decision && (e.snapshot ? `${e.decision}, rules ${e.snapshot}` : e.decision)],
          ["Position", e.position.toString()],
          ["Request", <span key="r" className="font-mono text-[12.5px]">{e.requestId}</span>],
        ]}
      />
      <div className="grid gap-3">
        {(["before", "after"] as const).map((side) => (
          <div key={side} className="min-w-0">
            <h3 className="mb-1 text-[12px] text-soft">{side}</h3>
            <pre tabIndex={0} className="max-h-48 overflow-auto rounded-md border border-line bg-sunk p-2 font-mono text-[12px]">
              {json(e[side])}
            </pre>
          </div>
        ))}
      </div>
      <div className="flex justify-end">
        <Button onClick={close}>Close</Button>
      </div>
    </Dialog>
  );
}
