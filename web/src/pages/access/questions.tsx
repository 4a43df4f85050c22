// Why may somebody do something, who can do it, what can somebody do. The address holds the question, so that it can be sent.
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState, type FormEvent } from "react";
import { access } from "../../app/pages";
import { SpotSelect } from "../../app/spot";
import { Tabs } from "../../app/tabs";
import { Button, Card, Field, Input, Page } from "../../ui/basics";
import { Choice } from "../../ui/form";
import { Answer, type Asked } from "./answers";
import { PermissionInput, WhoFields } from "./picks";
import { usePermissions } from "./roleform";

export type Ask = "why" | "who" | "what";

const asks = [
  { value: "why", label: "Why may somebody, or why not?" },
  { value: "who", label: "Who can?" },
  { value: "what", label: "What can somebody do?" },
] as const;

export function Questions() {
  const search = useSearch({ strict: false }) as Partial<Asked>;
  const navigate = useNavigate();
  const known = usePermissions();
  const [q, setQ] = useState<Asked>(() => ({ ask: "why", kind: "user", who: "", permission: "", at: "", host: "", selector: "", address: "", mfa: "", ticket: "", time: "", ...search }));
  const set = (change: Partial<Asked>) => setQ((old) => ({ ...old, ...change }));
  const asked: Asked = { ask: "why", kind: "user", who: "", permission: "", at: "", host: "", selector: "", address: "", mfa: "", ticket: "", time: "", ...search };
  const ready = asked.ask === "who" ? asked.permission !== "" : asked.who !== "" && (asked.ask === "what" || asked.permission !== "");
  const submit = (e: FormEvent) => {
    e.preventDefault();
    void navigate({ to: ".", search: ((old: { in?: string }) => ({ in: old.in, ...Object.fromEntries(Object.entries(q).filter(([, v]) => v !== "")) })) as never });
  };
  return (
    <Page title="Questions about access" about="Answers come from the very rules that decisions go by, and name the binding.">
      <Tabs of={access} />
      <div className="grid items-start gap-4 xl:grid-cols-[minmax(24rem,2fr)_3fr]">
        <Card title="Question">
          <form className="flex flex-col gap-4" onSubmit={submit}>
            <Choice label="Ask" value={q.ask} set={(ask) => set({ ask })} of={asks} />
            {q.ask !== "who" && <WhoFields kinds={["user", "service_account"]} value={{ kind: q.kind, ref: q.who }} set={(w) => set({ kind: w.kind as Asked["kind"], who: w.ref })} />}
            {q.ask !== "what" && (
              <Field label="Permission" hint={known.find((p) => p.name === q.permission)?.allows}>
                {(at) => <PermissionInput {...at} value={q.permission} set={(permission) => set({ permission })} known={known.map((p) => p.name)} />}
              </Field>
            )}
            <Field label="Where">{(at) => <SpotSelect {...at} everywhere="In the whole deployment" value={q.at} set={(v) => set({ at: v })} />}</Field>
            <div className="grid gap-4 sm:grid-cols-2">
              <Field label="On the host" hint="name or id; empty: on the place itself">
                {(at) => <Input {...at} value={q.host} onChange={(e) => set({ host: e.target.value.trim() })} />}
              </Field>
              {q.ask !== "why" && (
                <Field label="On hosts with labels" hint="env=prod">
                  {(at) => <Input {...at} value={q.selector} onChange={(e) => set({ selector: e.target.value })} />}
                </Field>
              )}
            </div>
            {q.ask === "why" && (
              <details open={q.address !== "" || q.mfa !== "" || q.ticket !== "" || q.time !== "" || undefined}>
                <summary className="text-[13px] font-medium">Under other circumstances</summary>
                <div className="mt-3 grid gap-4 sm:grid-cols-2">
                  <Field label="Call from address">{(at) => <Input {...at} value={q.address} placeholder="10.1.2.3" onChange={(e) => set({ address: e.target.value.trim() })} />}</Field>
                  <Field label="Second factor given ago" hint="5m; empty: none given">
                    {(at) => <Input {...at} value={q.mfa} onChange={(e) => set({ mfa: e.target.value.trim() })} />}
                  </Field>
                  <Field label="Ticket named">{(at) => <Input {...at} value={q.ticket} placeholder="OPS-42" onChange={(e) => set({ ticket: e.target.value })} />}</Field>
                  <Field label="At" hint="8h from now, or a time; empty: now">
                    {(at) => <Input {...at} value={q.time} onChange={(e) => set({ time: e.target.value.trim() })} />}
                  </Field>
                </div>
              </details>
            )}
            <div>
              <Button type="submit" kind="primary">
                Ask
              </Button>
            </div>
          </form>
        </Card>
        <Card title="Answer">{ready ? <Answer q={asked} /> : <p className="text-soft">Fill in the question. Nothing is changed by asking.</p>}</Card>
      </div>
    </Page>
  );
}
