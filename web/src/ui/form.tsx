// What every form has: an act that is under way or failed, and the same act for a shell, for curl, and as JSON.
import { create, toJsonString, type DescMessage, type DescMethodUnary, type MessageInitShape } from "@bufbuild/protobuf";
import { useCallback, useId, useState, type FormEvent, type ReactNode } from "react";
import { quoted } from "../api/shell";
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
  headers?: Record<string, string>;
  each?: readonly string[]; // it is made once for each of these ids, where the request says EACH
}

/** Stands in a request for the id of each thing that the call is made for. */
export const EACH = "EACH";

/** A call of the API as data, for Same. */
export function call<Input extends DescMessage, Output extends DescMessage>(method: DescMethodUnary<Input, Output>, request: MessageInitShape<Input>, more: Pick<Call, "headers" | "each"> = {}): Call {
  return { method, request, ...more } as unknown as Call;
}

/** An act as the command line and the API have it. */
export interface Elsewhere {
  cli: string;
  api: Call;
}

const ways = ["Command line", "curl", "JSON"] as const;

/** The same act elsewhere, ready to copy. It is written out only where somebody looks: for ten thousand hosts it is long. */
export function Same({ cli, api }: Elsewhere) {
  const [open, setOpen] = useState(false);
  return (
    <details onToggle={(e) => setOpen(e.currentTarget.open)}>
      <summary className="text-[13px] text-soft">The same on the command line and by the API</summary>
      {open && <Ways cli={cli} api={api} />}
    </details>
  );
}

function Ways({ cli, api }: Elsewhere) {
  const [way, setWay] = useState<(typeof ways)[number]>("Command line");
  const name = useId();
  const text = () => {
    if (way === "Command line") return cli;
    try {
      return way === "curl" ? curl(api) : request(api);
    } catch (problem) {
      return (problem as Error).message; // a number that is none yet
    }
  };
  return (
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
      <Command label={way === "JSON" ? "request" : "command"} text={text()} />
    </fieldset>
  );
}

function path({ method }: Call): string {
  return `${method.parent.typeName}/${method.name}`;
}

function json({ method, request }: Call, indent: number): string {
  return toJsonString(method.input, create(method.input, request), { prettySpaces: indent });
}

function curl(api: Call): string {
  const more = Object.entries(api.headers ?? {}).map(([name, value]) => ` -H ${quoted(`${name}: ${value}`)}`);
  const once = `curl -fsS -H "Authorization: Bearer $LOOPBACK_API_KEY" -H 'Content-Type: application/json'${more.join("")} \\\n  ${location.origin}/api/${path(api)} \\\n  -d '${json(api, 0).replaceAll("'", "'\\''")}'`;
  if (!api.each) return once;
  if (api.each.length === 1) return once.replace(`"${EACH}"`, `"${api.each[0]}"`);
  return `for id in ${api.each.join(" ")}; do\n${once.replace(`"${EACH}"`, `"'"$id"'"`)}\ndone`;
}

function request(api: Call): string {
  const headers = Object.entries(api.headers ?? {}).map(([name, value]) => `${name}: ${value}\n`);
  const many = api.each && api.each.length > 1;
  return `POST /api/${path(api)}\n${headers.join("")}${json(api, 2).replace(`"${EACH}"`, `"${api.each?.[0] ?? EACH}"`)}${many ? `\n\nand so for each of ${api.each!.length.toLocaleString()}` : ""}`;
}

/** A form: its fields, the same act elsewhere, what the server says to it, and its buttons. Where no command and no call can do it, same says why. */
export function Form(props: { submit: () => void; same: Elsewhere | string; error?: unknown; buttons?: ReactNode; className?: string; children: ReactNode }) {
  const send = (e: FormEvent) => {
    e.preventDefault();
    props.submit();
  };
  return (
    <form className={cx("flex flex-col gap-4", props.className)} onSubmit={send}>
      {props.children}
      {typeof props.same === "string" ? <p className="text-[12px] text-soft">{props.same}</p> : <Same {...props.same} />}
      {props.error !== undefined && <Problem error={props.error} />}
      {props.buttons}
    </form>
  );
}

/** A form in a dialog: what it says, what the server says to it, the same act elsewhere, and the two ways out. */
export function FormDialog(props: {
  title: string;
  wide?: boolean;
  close: () => void;
  act: ReturnType<typeof useAct>;
  submit: () => void;
  label: string;
  cancel?: string;
  kind?: "primary" | "danger";
  why?: string; // it may not be done
  disabled?: boolean;
  same: Elsewhere | string;
  back?: () => void;
  children: ReactNode;
}) {
  return (
    <Dialog title={props.title} open close={props.close} wide={props.wide}>
      <Form
        submit={() => {
          if (!props.why && !props.disabled) props.submit();
        }}
        same={props.same}
        error={props.act.error}
        buttons={
          <div className="flex flex-wrap justify-end gap-2">
            {props.back ? (
              <Button onClick={props.back} disabled={props.act.busy}>
                Back
              </Button>
            ) : (
              <Button onClick={props.close}>{props.cancel ?? "Cancel"}</Button>
            )}
            <Button type="submit" kind={props.kind ?? "primary"} busy={props.act.busy} why={props.why} disabled={props.disabled}>
              {props.label}
            </Button>
          </div>
        }
      >
        {props.children}
      </Form>
    </Dialog>
  );
}

/** Two edited one thing: what the other made of it meanwhile, beside one's own. */
export function Both({ of, none, children }: { of: readonly { name: string; theirs: string | undefined; mine: string | undefined }[]; none: string; children?: ReactNode }) {
  return (
    <div role="alert" className="rounded-md border border-warn/50 p-3">
      <p className="font-medium text-warn">Somebody else changed this while you were typing.</p>
      <table className="my-2 w-full text-left">
        <thead className="text-[12px] text-soft">
          <tr>
            <th className="font-normal">What</th>
            <th className="font-normal">Theirs</th>
            <th className="font-normal">Yours</th>
          </tr>
        </thead>
        <tbody>
          {of.map((o) => (
            <tr key={o.name}>
              <th scope="row" className="pr-3 font-normal">
                {o.name}
              </th>
              <td className="pr-3 font-mono text-[12.5px] wrap-anywhere">{o.theirs || none}</td>
              <td className="font-mono text-[12.5px] wrap-anywhere">{o.mine || none}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <div className="flex flex-wrap gap-2">{children}</div>
    </div>
  );
}

/**
 * The fields of a thing that a form changes while the thing lives on. One that was not typed into follows the thing and is not sent;
 * one that others changed after it was typed into is shown as both made it.
 */
export function useEdit<Key extends string>(now: Record<Key, string>, names: Record<Key, string>) {
  const [edits, setEdits] = useState<Partial<Record<Key, { from: string; to: string }>>>({});
  const keys = Object.keys(names) as Key[];
  const both = keys.filter((k) => edits[k] && now[k] !== edits[k].from && now[k] !== edits[k].to);
  return {
    value: (k: Key) => edits[k]?.to ?? now[k],
    set: (k: Key, to: string) => setEdits((old) => ({ ...old, [k]: { from: old[k]?.from ?? now[k], to } })),
    /** What is to be sent of it: nothing where it is as the thing has it. */
    changed: (k: Key) => (edits[k] && edits[k].to !== now[k] ? edits[k].to : undefined),
    disputed: both.length > 0,
    theirs: both.length > 0 && (
      <Both of={both.map((k) => ({ name: names[k], theirs: now[k], mine: edits[k]?.to }))} none="nothing">
        <Button onClick={() => setEdits((old) => Object.fromEntries(Object.entries(old).filter(([k]) => !both.includes(k as Key))) as typeof old)}>Take theirs</Button>
      </Both>
    ),
  };
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
