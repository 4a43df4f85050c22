// Commands that were run on hosts, and the form that runs one.
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api } from "../api/client";
import { parseDuration, toProto } from "../api/duration";
import { ExecService, type Exec } from "../api/gen/loopback/v1/exec_pb";
import { usePages } from "../app/list";
import { paths } from "../app/paths";
import { usePlace } from "../app/place";
import { useSession } from "../app/session";
import { Ago, Button, Card, Empty, Field, Input, Page, Problem, Select, State, Waiting } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";
import { Table, type Column } from "../ui/table";
import { line, words } from "./words";

export function Commands() {
  const { workspace } = usePlace();
  const { why } = useSession();
  const navigate = useNavigate();
  const [running, setRunning] = useState(false);
  const list = usePages(["commands", workspace], (token) => api.execs.listExecs({ workspace, page: { size: 100, token } }));
  const columns: Column<Exec>[] = [
    {
      key: "command",
      head: "Command",
      width: "minmax(12rem,2fr)",
      cell: (e) => (
        <Link to={paths.command(e.id) as never} className="font-mono text-[12.5px] hover:underline">
          {e.name}
        </Link>
      ),
    },
    { key: "state", head: "State", width: "8rem", cell: (e) => <State of={e.state} reason={e.reason} /> },
    { key: "hosts", head: "Hosts", width: "minmax(8rem,1fr)", cell: (e) => <Tally of={e.hosts} /> },
    { key: "user", head: "As", width: "6rem", narrow: "hide", cell: (e) => e.command?.user || "root" },
    { key: "when", head: "Begun", width: "7rem", narrow: "hide", cell: (e) => <Ago at={e.createdAt} /> },
  ];
  return (
    <Page
      title="Commands"
      about="Run once on each of many hosts. What they wrote is kept."
      actions={
        <Button kind="primary" why={why("exec.run")} onClick={() => setRunning(true)}>
          Run a command
        </Button>
      }
    >
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table
            label="commands"
            columns={columns}
            rows={list.rows}
            id={(e) => e.id}
            more={list.more}
            open={(e) => void navigate({ to: paths.command(e.id) as never })}
            empty={
              <Empty title="No command was run">
                <p>It takes the permission exec.run, which is given for a time only, and a reason.</p>
              </Empty>
            }
          />
        )}
      </Card>
      {running && <Run close={() => setRunning(false)} />}
    </Page>
  );
}

const order = ["failed", "timed_out", "refused", "unreachable", "indeterminate", "running", "sent", "ready", "waiting", "succeeded", "cancelled", "skipped"];

/** How many hosts are how far, what needs a look first. */
export function Tally({ of }: { of: Record<string, number> }) {
  const states = order.filter((s) => of[s]);
  return (
    <span className="flex flex-wrap gap-x-3">
      {states.map((s) => (
        <span key={s} className="inline-flex items-center gap-1 tabular-nums">
          {of[s]} <State of={s} />
        </span>
      ))}
    </span>
  );
}

function Run({ close }: { close: () => void }) {
  const { place, places } = usePlace();
  const navigate = useNavigate();
  const [form, setForm] = useState({ command: "", shell: false, user: "", on: "selector", selector: "", hosts: "", reason: "", ticket: "", timeout: "1m", failures: "", canary: "", workspace: place?.id ?? places[0]?.id ?? "" });
  const act = useAct();
  const set = (name: keyof typeof form) => (e: { target: EventTarget | null }) => setForm({ ...form, [name]: (e.target as HTMLInputElement).value });
  const parsed = (() => {
    try {
      return { args: form.shell ? [form.command] : words(form.command), wrong: "" };
    } catch (problem) {
      return { args: [], wrong: (problem as Error).message };
    }
  })();
  const names = form.hosts.split(/[\s,]+/).filter(Boolean);
  const selector = form.on === "selector" ? form.selector.trim() : "";
  const count = useQuery({ queryKey: ["hosts", "count", form.workspace, form.on, selector], enabled: form.on === "all" || selector !== "", queryFn: () => api.hosts.countHosts({ workspace: form.workspace, selector }), retry: false });
  const reached = form.on === "hosts" ? names.length : (count.data && Object.entries(count.data.byState).reduce((n, [state, of]) => (state === "removed" ? n : n + Number(of)), 0)) || 0;
  const timeout = parseDuration(form.timeout);
  const headers: Record<string, string> = { "Loopback-Reason": encodeURIComponent(form.reason) };
  if (form.ticket) headers["Loopback-Ticket"] = encodeURIComponent(form.ticket);
  const request = {
    workspace: form.workspace,
    hosts: form.on === "hosts" ? names : [],
    selector,
    all: form.on === "all",
    command: { arguments: parsed.args, shell: form.shell, user: form.user, timeout: timeout === undefined ? undefined : toProto(timeout) },
    maxFailures: Number(form.failures) || 0,
    canary: Number(form.canary) || 0,
  };
  const submit = () =>
    void act.run(async () => {
      const made = await api.execs.startExec(request, { headers });
      close();
      await navigate({ to: paths.command(made.id) as never });
    });
  const cli = [
    "loopback exec",
    form.on === "all" ? "--all" : form.on === "hosts" ? line(names) || "HOSTS" : line([selector || "SELECTOR"]),
    `--reason ${line([form.reason || "REASON"])}`,
    form.ticket && `--ticket ${line([form.ticket])}`,
    form.user && `--user ${line([form.user])}`,
    form.timeout !== "1m" && `--max-time ${form.timeout}`,
    form.failures && `--max-failures ${form.failures}`,
    form.canary && `--canary ${form.canary}`,
    form.shell && "--shell",
    "--",
    form.shell ? line([form.command]) : line(parsed.args) || "COMMAND",
  ]
    .filter(Boolean)
    .join(" ");
  return (
    <FormDialog
      title="Run a command"
      close={close}
      act={act}
      label={reached > 1 ? `Run it on ${reached} hosts` : "Run it"}
      disabled={parsed.wrong !== "" || parsed.args.length === 0 || timeout === undefined}
      submit={submit}
      same={{ cli, api: call(ExecService.method.startExec, request, { headers }) }}
    >
      <Field label="Command" error={parsed.wrong} hint={form.shell ? "/bin/sh on each host reads this line." : "Program and arguments; no shell looks at them."}>
        {(at) => <Input {...at} required autoFocus className="font-mono" placeholder="uptime" value={form.command} onChange={set("command")} />}
      </Field>
      <label className="-mt-2 flex items-center gap-2">
        <input type="checkbox" name="shell" checked={form.shell} onChange={(e) => setForm({ ...form, shell: e.target.checked })} />
        Let a shell read it (pipes, variables, patterns)
      </label>
      {places.length > 1 && (
        <Field label="Workspace">
          {(at) => (
            <Select {...at} value={form.workspace} onChange={set("workspace")}>
              {places.map((p) => (
                <option key={p.id} value={p.id}>
                  {p.path}
                </option>
              ))}
            </Select>
          )}
        </Field>
      )}
      <Field label="On" hint={form.on === "hosts" || selector || form.on === "all" ? (count.error && form.on !== "hosts" ? undefined : `${reached} ${reached === 1 ? "host" : "hosts"}`) : "Labels, such as role=web or env in (prod, stage)."}>
        {(at) => (
          <div className="flex gap-2">
            <Select aria-label="how hosts are chosen" value={form.on} onChange={set("on")} className="w-36!">
              <option value="selector">Labels</option>
              <option value="hosts">These hosts</option>
              <option value="all">All hosts</option>
            </Select>
            {form.on === "selector" && <Input {...at} required placeholder="role=web" value={form.selector} onChange={set("selector")} />}
            {form.on === "hosts" && <Input {...at} required placeholder="web-1 web-2" value={form.hosts} onChange={set("hosts")} />}
          </div>
        )}
      </Field>
      <Field label="Reason">{(at) => <Input {...at} required placeholder="disk is filling" value={form.reason} onChange={set("reason")} />}</Field>
      <details>
        <summary className="text-soft">As whom, how long, how careful</summary>
        <div className="mt-3 grid grid-cols-2 gap-3">
          <Field label="As which user">{(at) => <Input {...at} placeholder="root" value={form.user} onChange={set("user")} />}</Field>
          <Field label="Ticket">{(at) => <Input {...at} value={form.ticket} onChange={set("ticket")} />}</Field>
          <Field label="Ended on a host after" error={timeout === undefined ? "such as 30s, 5m or 1h" : ""}>
            {(at) => <Input {...at} value={form.timeout} onChange={set("timeout")} />}
          </Field>
          <Field label="Stop after so many failures" hint="Empty: never.">
            {(at) => <Input {...at} type="number" min={0} value={form.failures} onChange={set("failures")} />}
          </Field>
          <Field label="So many hosts first" hint="The others once it succeeded there.">
            {(at) => <Input {...at} type="number" min={0} value={form.canary} onChange={set("canary")} />}
          </Field>
        </div>
      </details>
    </FormDialog>
  );
}
