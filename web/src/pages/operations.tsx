// Long work, with its steps.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import { api } from "../api/client";
import { OperationService, type Operation } from "../api/gen/loopback/v1/operation_pb";
import { command } from "../api/shell";
import { usePages } from "../app/list";
import { paths } from "../app/paths";
import { usePlace } from "../app/place";
import { useSession } from "../app/session";
import { Ago, Button, Card, Dialog, Empty, Facts, Page, Problem, Select, State, Waiting } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";
import { Table, type Column } from "../ui/table";

export const ended = new Set(["succeeded", "failed", "cancelled"]);

export function Operations() {
  const { workspace } = usePlace();
  const queries = useQueryClient();
  const search = useSearch({ strict: false }) as { state?: string };
  const navigate = useNavigate();
  const [open, setOpen] = useState<string>();
  const state = search.state ?? "";
  const list = usePages(["operations", workspace, state], (token) => api.operations.listOperations({ workspace, states: state ? [state] : [], page: { size: 100, token } }));
  const running = list.rows.find((o) => !ended.has(o.state))?.id;
  // One that is under way is waited for, not asked after.
  useEffect(() => {
    if (!running) return;
    const stop = new AbortController();
    api.operations
      .waitOperation({ operation: running }, { signal: stop.signal })
      .then(() => queries.invalidateQueries({ queryKey: ["operations"] }))
      .catch(() => undefined);
    return () => stop.abort();
  }, [running, queries]);
  const columns: Column<Operation>[] = [
    {
      key: "kind",
      head: "Work",
      width: "minmax(10rem,1fr)",
      cell: (o) => (
        <button type="button" className="font-mono text-[12.5px] hover:underline" onClick={() => setOpen(o.id)}>
          {o.name}
        </button>
      ),
    },
    { key: "state", head: "State", width: "8rem", cell: (o) => <State kind="operation" of={o.state} /> },
    { key: "progress", head: "Progress", width: "6rem", cell: (o) => <span className="tabular-nums">{`${Math.round(o.progress * 100)} %`}</span> },
    { key: "target", head: "On", width: "minmax(10rem,2fr)", narrow: "hide", cell: (o) => <Target id={o.target} /> },
    { key: "asked", head: "Asked", width: "7rem", narrow: "hide", cell: (o) => <Ago at={o.createdAt} /> },
  ];
  const shown = list.rows.find((o) => o.id === open);
  return (
    <Page title="Operations" about="Work that takes a while. It goes on through a restart of the control plane.">
      <Select aria-label="state" value={state} onChange={(e) => void navigate({ to: ".", search: ((old: object) => ({ ...old, state: e.target.value || undefined })) as never, replace: true })} className="w-40!">
        <option value="">All states</option>
        {["pending", "running", "succeeded", "failed", "cancelled"].map((s) => (
          <option key={s}>{s}</option>
        ))}
      </Select>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>{list.pending ? <Waiting /> : <Table label="operations" columns={columns} rows={list.rows} id={(o) => o.id} more={list.more} open={(o) => setOpen(o.id)} empty={<Empty title="No operation">{<p>Removing or quarantining a host, restarting a module of its agent, and revoking a token with its hosts, appear here.</p>}</Empty>} />}</Card>
      {shown && <OperationDialog o={shown} close={() => setOpen(undefined)} />}
    </Page>
  );
}

/** What an operation is done to: a host by its name, anything else by its id. */
function Target({ id }: { id: string }) {
  const { may } = useSession();
  const host = id.startsWith("hst_");
  const found = useQuery({ queryKey: ["hosts", "name", id], enabled: host && may("hosts.read"), queryFn: () => api.hosts.getHost({ host: id }), select: (h) => h.name, staleTime: 60_000, retry: false });
  if (!host) return <span className="font-mono text-[12.5px]">{id}</span>;
  return (
    <Link to={paths.host(id) as never} className={found.data ? "hover:underline" : "font-mono text-[12.5px] hover:underline"} title={id}>
      {found.data ?? id}
    </Link>
  );
}

export function Steps({ of }: { of: Operation }) {
  return (
    <ol className="divide-y divide-line/70 rounded-md border border-line">
      {of.steps.map((s) => (
        <li key={s.name} className="px-3 py-1.5">
          <span className="flex items-center gap-2">
            <span className="min-w-0 flex-1">{s.name}</span>
            <State kind="operation" of={s.state} />
          </span>
          {s.message && <span className="text-[12px] text-soft wrap-anywhere">{s.message}</span>}
        </li>
      ))}
    </ol>
  );
}

function OperationDialog({ o, close }: { o: Operation; close: () => void }) {
  const { why } = useSession();
  const queries = useQueryClient();
  const act = useAct();
  const [cancelling, setCancelling] = useState(false);
  if (cancelling) {
    const request = { operation: o.id };
    const submit = () =>
      void act.run(async () => {
        await api.operations.cancelOperation(request);
        void queries.invalidateQueries({ queryKey: ["operations"] });
        setCancelling(false);
      });
    return (
      <FormDialog title={`Cancel ${o.name}?`} close={close} back={() => setCancelling(false)} act={act} kind="danger" label="Cancel it" submit={submit} same={{ cli: command(`operation cancel ${o.id}`), api: call(OperationService.method.cancelOperation, request) }}>
        <p>What it has done stays done; what is left is not begun.</p>
      </FormDialog>
    );
  }
  return (
    <Dialog title={o.name} open close={close}>
      <Facts
        of={[
          ["State", <State key="s" kind="operation" of={o.state} />],
          ["Id", <span key="i" className="font-mono text-[12.5px]">{o.id}</span>],
          ["On", <Target key="t" id={o.target} />],
          ["Asked", <Ago key="a" at={o.createdAt} />],
          ["Ended", o.endedAt && <Ago key="e" at={o.endedAt} />],
          ["Failed because", o.error && `${o.error.message} (${o.error.code})`],
        ]}
      />
      <Steps of={o} />
      <div className="flex justify-end gap-2">
        <Button onClick={close}>Close</Button>
        {!ended.has(o.state) && (
          <Button kind="danger" why={why("operations.cancel")} onClick={() => setCancelling(true)}>
            Cancel it…
          </Button>
        )}
      </div>
    </Dialog>
  );
}
