// Commands that were run on hosts, and the form that runs one.
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api } from "../api/client";
import { formatDuration, parseDuration, toProto } from "../api/duration";
import { ExecService, type Exec } from "../api/gen/loopback/v1/exec_pb";
import { usePages } from "../app/list";
import { paths } from "../app/paths";
import { commands } from "../app/pages";
import { usePlace } from "../app/place";
import { useSession } from "../app/session";
import { Tabs } from "../app/tabs";
import { Ago, Button, Card, Empty, Field, Input, Mark, Page, Problem, State, Waiting, cx } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";
import { lookOf } from "../ui/states";
import { Table, type Column } from "../ui/table";
import { runItOn, Targets, useTargets } from "./targets";
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
      width: "minmax(9rem,2fr)",
      cell: (e) => (
        <Link to={paths.command(e.id) as never} title={e.name} className="font-mono text-[12.5px] hover:underline">
          {e.as && <span className="font-sans text-[13px] font-medium">{e.as} </span>}
          {e.name}
        </Link>
      ),
    },
    { key: "state", head: "State", width: "8rem", cell: (e) => <State of={e.state} reason={e.reason} /> },
    { key: "hosts", head: "Hosts", width: "minmax(7rem,1fr)", cell: (e) => <Tally of={e.hosts} row /> },
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
      <Tabs of={commands} />
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
/** How many hosts, by state; in a row of a list on one line, on a phone without the words. */
export function Tally({ of, row }: { of: Record<string, number>; row?: boolean }) {
  const states = order.filter((s) => of[s]);
  if (row)
    return (
      <span className="flex gap-x-3 max-md:gap-x-2" title={states.map((s) => `${of[s]} ${s}`).join(", ")}>
        {states.map((s) => (
          <span key={s} className={cx("inline-flex items-center gap-1 tabular-nums", lookOf(s).tone)}>
            <Mark state={s} />
            {of[s]} <span className="max-md:sr-only">{s}</span>
          </span>
        ))}
      </span>
    );
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
  const navigate = useNavigate();
  const at = useTargets();
  const [form, setForm] = useState({ command: "", shell: false, user: "", reason: "", ticket: "", timeout: "1m", failures: "", canary: "" });
  const act = useAct();
  const set = (name: keyof typeof form) => (e: { target: EventTarget | null }) => setForm({ ...form, [name]: (e.target as HTMLInputElement).value });
  const parsed = (() => {
    try {
      return { args: form.shell ? [form.command] : words(form.command), wrong: "" };
    } catch (problem) {
      return { args: [], wrong: (problem as Error).message };
    }
  })();
  const timeout = parseDuration(form.timeout);
  const headers = because(form.reason, form.ticket);
  const request = {
    ...at.request,
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
    at.where,
    at.flag,
    `--reason ${line([form.reason || "REASON"])}`,
    form.ticket && `--ticket ${line([form.ticket])}`,
    form.user && `--user ${line([form.user])}`,
    timeout !== undefined && timeout !== 60 && `--max-time ${formatDuration(timeout)}`,
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
      label={runItOn(at.reached)}
      disabled={parsed.wrong !== "" || parsed.args.length === 0 || timeout === undefined}
      submit={submit}
      same={{ cli, api: call(ExecService.method.startExec, request, { headers }) }}
    >
      <Field label="Command" error={parsed.wrong} hint={form.shell ? "/bin/sh on each host reads this line." : "Program and arguments; no shell looks at them."}>
        {(id) => <Input {...id} required autoFocus className="font-mono" placeholder="uptime" value={form.command} onChange={set("command")} />}
      </Field>
      <label className="-mt-2 flex items-center gap-2">
        <input type="checkbox" name="shell" checked={form.shell} onChange={(e) => setForm({ ...form, shell: e.target.checked })} />
        Let a shell read it (pipes, variables, patterns)
      </label>
      <Targets at={at} />
      <Field label="Reason">{(id) => <Input {...id} required placeholder="disk is filling" value={form.reason} onChange={set("reason")} />}</Field>
      <details>
        <summary className="text-soft">As whom, how long, how careful</summary>
        <div className="mt-3 grid grid-cols-2 gap-3">
          <Field label="As which user">{(id) => <Input {...id} placeholder="root" value={form.user} onChange={set("user")} />}</Field>
          <Field label="Ticket">{(id) => <Input {...id} value={form.ticket} onChange={set("ticket")} />}</Field>
          <Field label="Ended on a host after" error={timeout === undefined ? "such as 30s, 5m or 1h" : ""}>
            {(id) => <Input {...id} value={form.timeout} onChange={set("timeout")} />}
          </Field>
          <Field label="Stop after so many failures" hint="Empty: never.">
            {(id) => <Input {...id} type="number" min={0} value={form.failures} onChange={set("failures")} />}
          </Field>
          <Field label="So many hosts first" hint="The others once it succeeded there.">
            {(id) => <Input {...id} type="number" min={0} value={form.canary} onChange={set("canary")} />}
          </Field>
        </div>
      </details>
    </FormDialog>
  );
}

/** The headers that say why. */
export function because(reason: string, ticket = ""): Record<string, string> {
  const headers: Record<string, string> = { "Loopback-Reason": encodeURIComponent(reason) };
  if (ticket) headers["Loopback-Ticket"] = encodeURIComponent(ticket);
  return headers;
}
