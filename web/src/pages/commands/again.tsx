// A run that did not succeed everywhere, once more where it did not: as what it was, a check, a saved command or somebody's own.
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api } from "../../api/client";
import { commands } from "../../api/commands";
import { CommandService } from "../../api/gen/loopback/v1/command_pb";
import { ExecService, type Exec, type ExecHost } from "../../api/gen/loopback/v1/exec_pb";
import { command } from "../../api/shell";
import { paths } from "../../app/paths";
import { Field, Input } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { because } from "../commands";
import { HostNames, runItOn } from "../targets";
import { Script } from "./parts";

/** The permission that it takes to run it again. */
export function needs(run: Exec): string {
  return run.check ? "checks.run" : run.savedCommand ? "commands.run" : "exec.run";
}

/** hosts: those on which it did not succeed. */
export function Again({ run, hosts, close }: { run: Exec; hosts: readonly ExecHost[]; close: () => void }) {
  const navigate = useNavigate();
  const act = useAct();
  const [reason, setReason] = useState("");
  const [ticket, setTicket] = useState("");
  const own = !run.check && !run.savedCommand;
  const on = { hosts: hosts.map((h) => h.hostId) };
  const headers = own ? because(reason, ticket) : {};
  const request = own
    ? { ...on, command: { arguments: run.command?.arguments ?? [], shell: run.command?.shell ?? false, user: run.command?.user ?? "", timeout: run.command?.timeout } }
    : run.check
      ? { ...on, check: run.check }
      : { ...on, command: run.savedCommand, values: run.values };
  const requestId = useState(() => crypto.randomUUID())[0];
  const begin = () => {
    if (own) return api.execs.startExec({ ...on, command: run.command, requestId }, { headers });
    if (run.check) return commands.runCheck({ ...on, check: run.check, requestId });
    return commands.runCommand({ ...on, command: run.savedCommand, values: run.values, requestId });
  };
  return (
    <FormDialog
      title="Run it again where it did not succeed"
      close={close}
      act={act}
      label={runItOn(hosts.length)}
      submit={() =>
        void act.run(async () => {
          const made = await begin();
          close();
          await navigate({ to: paths.command(made.id) as never });
        })
      }
      same={{
        cli: `${command("exec", [["rerun", run.id], ["reason", own ? reason || "REASON" : ""], ["ticket", own ? ticket : ""]])} --`,
        api: own ? call(ExecService.method.startExec, request as never, { headers }) : run.check ? call(CommandService.method.runCheck, request as never) : call(CommandService.method.runCommand, request as never),
      }}
    >
      <Script of={run.command} label="what is run" />
      <HostNames of={hosts.map((h) => ({ id: h.hostId, name: h.host, state: h.state }))} total={hosts.length} />
      {own && (
        <>
          <Field label="Reason">{(id) => <Input {...id} required autoFocus placeholder="the disk has room again" value={reason} onChange={(e) => setReason(e.target.value)} />}</Field>
          <Field label="Ticket" hint="Where the policy asks for one.">
            {(id) => <Input {...id} value={ticket} onChange={(e) => setTicket(e.target.value)} />}
          </Field>
        </>
      )}
    </FormDialog>
  );
}
