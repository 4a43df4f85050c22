// Shells on hosts: those that are open, and those that were.
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api/client";
import { ShellService, type ShellSession } from "../api/gen/loopback/v1/shell_pb";
import { command, quoted } from "../api/shell";
import { usePages } from "../app/list";
import { paths } from "../app/paths";
import { shells } from "../app/pages";
import { usePlace } from "../app/place";
import { useSession } from "../app/session";
import { Tabs } from "../app/tabs";
import { Ago, Button, Card, Empty, Field, Input, Page, Problem, Select, State, Waiting } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";
import { Table, type Column } from "../ui/table";

export function Shells() {
  const { workspace } = usePlace();
  const { why } = useSession();
  const search = useSearch({ strict: false }) as { state?: string; host?: string };
  const navigate = useNavigate();
  const [opening, setOpening] = useState(false);
  const state = search.state ?? "";
  const list = usePages(["shells", workspace, state, search.host], (token) => api.shells.listShellSessions({ workspace, host: search.host ?? "", states: state ? [state] : [], page: { size: 100, token } }));
  const columns: Column<ShellSession>[] = [
    {
      key: "host",
      head: "Host",
      width: "minmax(9rem,1.2fr)",
      cell: (s) => (
        <Link to={paths.shell(s.id) as never} className="font-medium hover:underline">
          {s.user}@{s.hostName}
        </Link>
      ),
    },
    { key: "state", head: "State", width: "7rem", cell: (s) => <State of={s.state} reason={s.endReason} /> },
    { key: "who", head: "Who", width: "minmax(8rem,1fr)", cell: (s) => s.principalName },
    { key: "why", head: "Why", width: "minmax(10rem,2fr)", narrow: "hide", cell: (s) => <span title={s.reason}>{s.ticket ? `${s.ticket}: ` : ""}{s.reason}</span> },
    { key: "recording", head: "Recording", width: "8rem", narrow: "hide", cell: (s) => (s.deletion ? <span className="text-soft" title={s.deletion.reason}>deleted</span> : s.verdict ? <State of={s.verdict} /> : <span className="text-soft">while it runs</span>) },
    { key: "when", head: "Opened", width: "7rem", narrow: "hide", cell: (s) => <Ago at={s.createdAt} /> },
  ];
  return (
    <Page
      title="Shells"
      about="Each is asked for with a reason, recorded on the host and here, and can be watched while it runs."
      actions={
        <Button kind="primary" why={why("shell_sessions.open")} onClick={() => setOpening(true)}>
          Open a shell
        </Button>
      }
    >
      <Tabs of={shells} />
      <Select aria-label="state" value={state} onChange={(e) => void navigate({ to: ".", search: ((old: object) => ({ ...old, state: e.target.value || undefined })) as never, replace: true })} className="w-40!">
        <option value="">All states</option>
        {["opening", "running", "ended"].map((s) => (
          <option key={s}>{s}</option>
        ))}
      </Select>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table
            label="shells"
            columns={columns}
            rows={list.rows}
            id={(s) => s.id}
            more={list.more}
            open={(s) => void navigate({ to: paths.shell(s.id) as never })}
            empty={
              <Empty title={state ? `No shell is ${state}` : "Nobody has opened a shell"}>
                <p>It takes the permission shell_sessions.open, which is given for a time only: ask for it under Grants.</p>
              </Empty>
            }
          />
        )}
      </Card>
      {opening && <OpenShell host={search.host ?? ""} close={() => setOpening(false)} />}
    </Page>
  );
}

/** The form that opens a shell: which host, as whom, and why. */
export function OpenShell({ host, close }: { host: string; close: () => void }) {
  const { workspace, place } = usePlace();
  const navigate = useNavigate();
  const [form, setForm] = useState({ host, user: "root", reason: "", ticket: "" });
  const act = useAct();
  const set = (name: keyof typeof form) => (e: { target: EventTarget | null }) => setForm({ ...form, [name]: (e.target as HTMLInputElement).value });
  const hosts = useQuery({ queryKey: ["hosts", "find", place?.id, form.host], enabled: form.host !== "", queryFn: () => api.hosts.listHosts({ workspace: place?.id ?? "", query: `name~${JSON.stringify(form.host)}`, page: { size: 20 } }), placeholderData: (old) => old });
  const request = { ...form, workspace, cols: 80, rows: 24, term: "xterm-256color" };
  const submit = () =>
    void act.run(async () => {
      const made = await api.shells.openShell(request);
      close();
      await navigate({ to: paths.shell(made.id) as never });
    });
  return (
    <FormDialog
      title="Open a shell"
      close={close}
      act={act}
      label="Open it"
      submit={submit}
      same={{ cli: command(`shell ${quoted(form.host || "HOST")}`, [["user", form.user === "root" ? "" : form.user], ["reason", form.reason || "REASON"], ["ticket", form.ticket]]), api: call(ShellService.method.openShell, request) }}
    >
      <Field label="Host" hint="Its name, or its id.">
        {(at) => (
          <>
            <Input {...at} required autoFocus list="shell-hosts" value={form.host} onChange={set("host")} />
            <datalist id="shell-hosts">{hosts.data?.items.map((h) => <option key={h.id} value={h.name} />)}</datalist>
          </>
        )}
      </Field>
      <Field label="As which of its users">{(at) => <Input {...at} required value={form.user} onChange={set("user")} />}</Field>
      <Field label="Reason" hint="Whoever reviews this session, or watches it, reads it.">
        {(at) => <Input {...at} required placeholder="replication is stuck" value={form.reason} onChange={set("reason")} />}
      </Field>
      <Field label="Ticket" hint="Where the policy asks for one.">
        {(at) => <Input {...at} placeholder="OPS-42" value={form.ticket} onChange={set("ticket")} />}
      </Field>
    </FormDialog>
  );
}
