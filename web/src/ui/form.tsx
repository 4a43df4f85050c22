// What every form has: an act that is under way or failed, and the same act for a shell, for curl, and as JSON.
import { create, toJsonString, type DescMessage, type DescMethodUnary, type MessageInitShape } from "@bufbuild/protobuf";
import { useCallback, useId, useState, type FormEvent, type ReactNode } from "react";
import { Button, Command, Dialog, Problem, cx } from "./basics";

/** An act that the server may refuse. run answers whether it was done. */
export function useAct() {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const run = useCallback(async (act: () => Promise<unknown>) => {
    setBusy(true);
    setError(undefined);
    try {
      await act();
      return true;
    } catch (problem) {
      setError(problem);
      return false;
    } finally {
      setBusy(false);
    }
  }, []);
  return { busy, error, run };
}

export interface Call<Input extends DescMessage = DescMessage> {
  method: DescMethodUnary<Input>;
  request: MessageInitShape<Input>;
}

/** A call of the API as data, for Same. */
export function call<Input extends DescMessage, Output extends DescMessage>(method: DescMethodUnary<Input, Output>, request: MessageInitShape<Input>): Call {
  return { method, request } as unknown as Call;
}

const ways = ["Command line", "curl", "JSON"] as const;

/** The same act elsewhere, ready to copy. */
export function Same({ cli, api }: { cli: string; api: Call }) {
  const [way, setWay] = useState<(typeof ways)[number]>("Command line");
  const name = useId();
  return (
    <details>
      <summary className="text-[13px] text-soft">The same on the command line and by the API</summary>
      <fieldset className="mt-2 flex flex-col gap-2">
        <legend className="sr-only">show it as</legend>
        <div className="flex flex-wrap gap-4">
          {ways.map((w) => (
            <label key={w} className="flex items-center gap-1.5 text-[13px]">
              <input type="radio" name={name} checked={way === w} onChange={() => setWay(w)} className="accent-(--color-accent)" />
              {w}
            </label>
          ))}
        </div>
        <Command label={way === "JSON" ? "request" : "command"} text={way === "Command line" ? cli : way === "curl" ? curl(api) : `POST /api/${path(api)}\n${json(api, 2)}`} />
      </fieldset>
    </details>
  );
}

function path({ method }: Call): string {
  return `${method.parent.typeName}/${method.name}`;
}

function json({ method, request }: Call, indent: number): string {
  return toJsonString(method.input, create(method.input, request), { prettySpaces: indent });
}

function curl(api: Call): string {
  return `curl -fsS -H "Authorization: Bearer $LOOPBACK_API_KEY" -H 'Content-Type: application/json' \\\n  ${location.origin}/api/${path(api)} \\\n  -d '${json(api, 0).replaceAll("'", "'\\''")}'`;
}

/** A form in a dialog: what it says, what the server says to it, the same act elsewhere, and the two ways out. */
export function FormDialog(props: {
  title: string;
  wide?: boolean;
  close: () => void;
  act: ReturnType<typeof useAct>;
  submit: () => void;
  label: string;
  kind?: "primary" | "danger";
  why?: string; // it may not be done
  disabled?: boolean;
  same?: { cli: string; api: Call };
  back?: () => void;
  children: ReactNode;
}) {
  const send = (e: FormEvent) => {
    e.preventDefault();
    if (!props.why && !props.disabled) props.submit();
  };
  return (
    <Dialog title={props.title} open close={props.close} wide={props.wide}>
      <form className="flex flex-col gap-4" onSubmit={send}>
        {props.children}
        {props.same && <Same {...props.same} />}
        {props.act.error !== undefined && <Problem error={props.act.error} />}
        <div className="flex flex-wrap justify-end gap-2">
          {props.back ? (
            <Button onClick={props.back} disabled={props.act.busy}>
              Back
            </Button>
          ) : (
            <Button onClick={props.close}>Cancel</Button>
          )}
          <Button type="submit" kind={props.kind ?? "primary"} busy={props.act.busy} why={props.why} disabled={props.disabled}>
            {props.label}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

/** One of a few, all of which are to be seen. */
export function Choice<Value extends string>({ label, value, set, of }: { label: string; value: Value; set: (value: Value) => void; of: readonly { value: Value; label: string; means?: string }[] }) {
  const name = useId();
  return (
    <fieldset className="flex flex-col gap-1">
      <legend className="mb-1 text-[13px] font-medium">{label}</legend>
      <div className={cx("flex gap-2", of.some((o) => o.means) ? "flex-col" : "flex-wrap")}>
        {of.map((o) => (
          <label key={o.value} className="flex items-start gap-2 rounded-md border border-line px-3 py-1.5 text-[13px] has-checked:border-accent has-checked:bg-accent-wash">
            <input type="radio" name={name} value={o.value} checked={value === o.value} onChange={() => set(o.value)} className="mt-0.5 size-4 accent-(--color-accent)" />
            <span>
              {o.label}
              {o.means && <span className="block text-[12.5px] text-soft">{o.means}</span>}
            </span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}
