// The form that saves a command, or the next version of one.
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useId, useState } from "react";
import { commands as api } from "../../api/commands";
import { formatDuration, parseDuration, seconds, toProto } from "../../api/duration";
import { CommandService, type SavedCommand } from "../../api/gen/loopback/v1/command_pb";
import { command, quoted } from "../../api/shell";
import { paths } from "../../app/paths";
import { usePlace } from "../../app/place";
import { Button, Field, Input, Select } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { line, words } from "../words";
import { textOf } from "./parts";

interface Parameter {
  name: string;
  pattern: string;
  description: string;
}

/** before: the version that is shown, whose next one is saved. */
export function SaveForm({ before, close }: { before?: SavedCommand; close: () => void }) {
  const { place, places } = usePlace();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const act = useAct();
  const [form, setForm] = useState({
    workspace: before?.scope?.workspaceId ?? place?.id ?? places[0]?.id ?? "",
    name: before?.name ?? "",
    description: before?.description ?? "",
    text: textOf(before?.command),
    shell: before?.command?.shell ?? false,
    user: before?.command?.user ?? "",
    timeout: before?.command?.timeout ? formatDuration(seconds(before.command.timeout) ?? 60) : "1m",
  });
  const [parameters, setParameters] = useState<Parameter[]>(() => before?.parameters.map(({ name, pattern, description }) => ({ name, pattern, description })) ?? []);
  const set = (name: keyof typeof form) => (e: { target: EventTarget | null }) => setForm({ ...form, [name]: (e.target as HTMLInputElement).value });
  const parsed = (() => {
    try {
      return { args: form.shell ? (form.text.trim() ? [form.text] : []) : words(form.text), wrong: "" };
    } catch (problem) {
      return { args: [], wrong: (problem as Error).message };
    }
  })();
  const timeout = parseDuration(form.timeout);
  const some = form.shell ? [] : parameters;
  const request = {
    workspace: form.workspace,
    name: form.name,
    description: form.description,
    command: { arguments: parsed.args, shell: form.shell, user: form.user, timeout: timeout === undefined ? undefined : toProto(timeout) },
    parameters: some,
  };
  const submit = () =>
    void act.run(async () => {
      const made = await api.saveCommand(request);
      void queries.invalidateQueries({ queryKey: ["saved commands"] });
      close();
      await navigate({ to: paths.savedCommand(made.id) as never });
    });
  const cli = `${command(`command save ${quoted(form.name || "NAME")}`, [
    ["workspace", places.length > 1 ? places.find((p) => p.id === form.workspace)?.path : ""],
    ["description", form.description],
    ["parameter", some.map((p) => `${p.name}=${p.pattern}`)],
    ["parameter-description", some.filter((p) => p.description).map((p) => `${p.name}=${p.description}`)],
    ["user", form.user],
    ["max-time", timeout === undefined || timeout === 60 ? "" : formatDuration(timeout)],
    ["shell", form.shell],
  ])} -- ${line(parsed.args) || "COMMAND"}`;
  return (
    <FormDialog
      title={before ? `Change ${before.name}` : "Save a command"}
      wide
      close={close}
      act={act}
      label={before ? "Save the next version" : "Save"}
      disabled={parsed.wrong !== "" || parsed.args.length === 0 || timeout === undefined}
      submit={submit}
      same={{ cli, api: call(CommandService.method.saveCommand, request) }}
    >
      <p className="text-soft">{before ? "It waits for somebody else's approval. Until then the version that is approved now stays the one that is run." : "It can be run once somebody else has approved it."}</p>
      {!before && (
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label="Name" hint="Lower-case letters, digits and '-'.">
            {(id) => <Input {...id} required autoFocus maxLength={63} placeholder="restart" value={form.name} onChange={set("name")} />}
          </Field>
          {places.length > 1 && (
            <Field label="Workspace">
              {(id) => (
                <Select {...id} value={form.workspace} onChange={set("workspace")}>
                  {places.map((p) => (
                    <option key={p.id} value={p.id}>
                      {p.path}
                    </option>
                  ))}
                </Select>
              )}
            </Field>
          )}
        </div>
      )}
      <Field label="What it is for">{(id) => <Input {...id} placeholder="restart a service of the web tier" value={form.description} onChange={set("description")} />}</Field>
      <Field label={form.shell ? "Script" : "Command"} error={parsed.wrong} hint={form.shell ? "/bin/sh on each host reads it. It has no parameters: a value could be any command there." : "Program and arguments; no shell looks at them. {name} stands where the value of a parameter goes."}>
        {(id) => (
          <textarea
            {...id}
            required
            autoFocus={before !== undefined}
            rows={form.shell ? 8 : 3}
            spellCheck={false}
            dir="ltr"
            placeholder={form.shell ? "df -h | tail -n 3" : "systemctl restart '{unit}'"}
            value={form.text}
            onChange={set("text")}
            className="w-full rounded-md border border-edge/50 bg-card px-2.5 py-1.5 font-mono text-[12.5px] placeholder:text-soft/80 hover:border-edge"
          />
        )}
      </Field>
      <label className="-mt-2 flex items-center gap-2">
        <input type="checkbox" name="shell" checked={form.shell} onChange={(e) => setForm({ ...form, shell: e.target.checked })} />
        Let a shell read it (pipes, variables, patterns)
      </label>
      {!form.shell && <Parameters of={parameters} set={setParameters} />}
      <div className="grid gap-4 sm:grid-cols-2">
        <Field label="As which user">{(id) => <Input {...id} placeholder="root" value={form.user} onChange={set("user")} />}</Field>
        <Field label="Ended on a host after" error={timeout === undefined ? "such as 30s, 5m or 1h" : ""}>
          {(id) => <Input {...id} value={form.timeout} onChange={set("timeout")} />}
        </Field>
      </div>
    </FormDialog>
  );
}

/** What whoever runs the command fills in. */
function Parameters({ of, set }: { of: Parameter[]; set: (parameters: Parameter[]) => void }) {
  const about = useId();
  const change = (i: number, part: Partial<Parameter>) => set(of.map((p, j) => (j === i ? { ...p, ...part } : p)));
  return (
    <fieldset className="flex flex-col gap-2">
      <legend className="mb-1 text-[13px] font-medium">Parameters</legend>
      {of.length > 0 && (
        <p id={about} className="text-[12px] text-soft">
          The whole of a value matches the pattern (RE2).
        </p>
      )}
      {of.map((p, i) => (
        <div key={i} className="grid gap-2 max-sm:rounded-md max-sm:border max-sm:border-line max-sm:p-2 sm:grid-cols-[8rem_1fr_1fr_auto]">
          <Input aria-label={`name of parameter ${i + 1}`} required placeholder="unit" className="font-mono" value={p.name} onChange={(e) => change(i, { name: e.target.value })} />
          <Input aria-label={`pattern of parameter ${i + 1}`} aria-describedby={about} required placeholder="(nginx|haproxy)\.service" className="font-mono" value={p.pattern} onChange={(e) => change(i, { pattern: e.target.value })} />
          <Input aria-label={`description of parameter ${i + 1}`} placeholder="which service" value={p.description} onChange={(e) => change(i, { description: e.target.value })} />
          <Button aria-label={`remove parameter ${i + 1}`} onClick={() => set(of.filter((_, j) => j !== i))}>
            Remove
          </Button>
        </div>
      ))}
      <div>
        <Button onClick={() => set([...of, { name: "", pattern: "", description: "" }])}>Add a parameter</Button>
      </div>
    </fieldset>
  );
}
