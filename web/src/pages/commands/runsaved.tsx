// The form that runs a saved command: the values of its parameters, where, and how careful.
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { commands as api } from "../../api/commands";
import { CommandService, type SavedCommand } from "../../api/gen/loopback/v1/command_pb";
import { quoted } from "../../api/shell";
import { paths } from "../../app/paths";
import { Field, Input } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { runItOn, Targets, useTargets } from "../targets";
import { Script } from "./parts";

/** Whether the whole of a value matches, as far as a browser can tell: its patterns are not RE2, which decides. */
function fits(pattern: string, value: string): boolean {
  try {
    return new RegExp(`^(?:${pattern})$`, "u").test(value);
  } catch {
    return true;
  }
}

export function RunSaved({ c, close }: { c: SavedCommand; close: () => void }) {
  const navigate = useNavigate();
  const at = useTargets(c.scope?.workspaceId ?? "");
  const act = useAct();
  const [values, setValues] = useState<Record<string, string>>(() => Object.fromEntries(c.parameters.map((p) => [p.name, ""])));
  const [failures, setFailures] = useState("");
  const [canary, setCanary] = useState("");
  const request = { ...at.request, command: c.id, values, maxFailures: Number(failures) || 0, canary: Number(canary) || 0 };
  const cli = ["loopback command run", c.id, at.where, at.flag, ...c.parameters.map((p) => `--set ${quoted(`${p.name}=${values[p.name]}`)}`), failures && `--max-failures ${failures}`, canary && `--canary ${canary}`].filter(Boolean).join(" ");
  const shown = { ...c.command!, arguments: c.command!.arguments.map((a) => a.replace(/\{([a-z][a-z0-9_]*)\}/g, (all, name: string) => values[name] || all)) };
  return (
    <FormDialog
      title={`Run ${c.name}`}
      close={close}
      act={act}
      label={runItOn(at.reached)}
      submit={() =>
        void act.run(async () => {
          const made = await api.runCommand({ ...request, requestId: crypto.randomUUID() });
          close();
          await navigate({ to: paths.command(made.id) as never });
        })
      }
      same={{ cli, api: call(CommandService.method.runCommand, request) }}
    >
      <Script of={shown} label="what is run" />
      {c.parameters.map((p, i) => (
        <Field key={p.name} label={p.name} hint={[p.description, `Its whole matches ${p.pattern}`].filter(Boolean).join(". ")} error={values[p.name] && !fits(p.pattern, values[p.name]!) ? `Its whole has to match ${p.pattern}` : ""}>
          {(id) => <Input {...id} autoFocus={i === 0} className="font-mono" value={values[p.name]} onChange={(e) => setValues({ ...values, [p.name]: e.target.value })} />}
        </Field>
      ))}
      <Targets at={at} first={c.parameters.length === 0} />
      <details>
        <summary className="text-soft">How careful</summary>
        <div className="mt-3 grid gap-3 sm:grid-cols-2">
          <Field label="Stop after so many failures" hint="Empty: never.">
            {(id) => <Input {...id} type="number" min={0} value={failures} onChange={(e) => setFailures(e.target.value)} />}
          </Field>
          <Field label="So many hosts first" hint="The others once it succeeded there.">
            {(id) => <Input {...id} type="number" min={0} value={canary} onChange={(e) => setCanary(e.target.value)} />}
          </Field>
        </div>
      </details>
    </FormDialog>
  );
}
