// Giving a role, or denying it: first what it is to be, then who gains and loses what by it, then it is made.
import { useQueryClient } from "@tanstack/react-query";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { useState } from "react";
import { access } from "../../api/access";
import { formatDuration, parseDuration, toProto } from "../../api/duration";
import { BindingService, type CreateBindingRequestSchema } from "../../api/gen/loopback/v1/policy_pb";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { command } from "../../api/shell";
import { atOf, SpotSelect, useSpots } from "../../app/spot";
import { useSession } from "../../app/session";
import { Facts, Field, Input } from "../../ui/basics";
import { call, Choice, FormDialog, useAct } from "../../ui/form";
import { Diff } from "./diff";
import { kindWords } from "./names";
import { RoleField, WhoFields, whoFields, whoFlag, type Who } from "./picks";

interface Draft {
  who: Who;
  role: string;
  spot: string;
  effect: "allow" | "deny";
  hosts: string;
  mfa: string;
  addresses: string;
  ticket: string;
  from: string;
  until: string;
  description: string;
}

/** A time as people type it: a span from now (8h), or a date and time. undefined: neither. */
function moment(text: string, now: number): Date | undefined {
  const span = parseDuration(text);
  if (span !== undefined) return new Date(now + span * 1000);
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : new Date(at);
}

const wrongMoment = "write it like 8h, 30d or 2026-12-31T18:00Z";

export function BindingForm({ close, first }: { close: () => void; first?: Partial<Draft> }) {
  const queries = useQueryClient();
  const { why } = useSession();
  const { called, flag } = useSpots();
  const act = useAct();
  const [now] = useState(Date.now);
  const [looking, setLooking] = useState(false);
  const [d, setDraft] = useState<Draft>({ who: { kind: "user", ref: "" }, role: "", spot: "", effect: "allow", hosts: "", mfa: "", addresses: "", ticket: "", from: "", until: "", description: "", ...first });
  const set = (change: Partial<Draft>) => setDraft((old) => ({ ...old, ...change }));
  const addresses = d.addresses.split(/[\s,]+/).filter(Boolean);
  const mfa = parseDuration(d.mfa);
  const [from, until] = [d.from, d.until].map((t) => (t.trim() ? moment(t.trim(), now) : undefined));
  const wrong = { mfa: d.mfa !== "" && mfa === undefined ? "write it like 15m" : undefined, from: d.from.trim() && !from ? wrongMoment : undefined, until: d.until.trim() && !until ? wrongMoment : undefined };
  const conditional = mfa !== undefined || addresses.length > 0 || d.ticket !== "";
  const request: MessageInitShape<typeof CreateBindingRequestSchema> = {
    ...whoFields(d.who),
    role: d.role,
    ...atOf(d.spot),
    hosts: d.hosts.trim(),
    deny: d.effect === "deny",
    conditions: conditional ? { mfaWithin: mfa === undefined ? undefined : toProto(mfa), addresses, ticket: d.ticket } : undefined,
    notBefore: from && timestampFromDate(from),
    notAfter: until && timestampFromDate(until),
    description: d.description,
  };
  const cli = command("binding create", [whoFlag(d.who), ["role", d.role || "ROLE"], flag(d.spot), ["hosts", d.hosts.trim()], ["deny", d.effect === "deny"], ["mfa-within", d.mfa], ["from-address", addresses], ["ticket-pattern", d.ticket], ["not-before", d.from.trim()], ["not-after", d.until.trim()], ["description", d.description]]);
  const where = d.spot === "" ? "everywhere" : `in ${called(d.spot)}`;
  const make = async () => {
    if (!looking) return setLooking(true);
    if (await act.run(() => access.bindings.createBinding(request))) {
      void queries.invalidateQueries({ queryKey: ["bindings"] });
      close();
    }
  };
  const verb = d.effect === "deny" ? "Deny" : "Give";
  return (
    <FormDialog
      title={looking ? `${verb} ${d.role} to ${d.who.ref}?` : "New binding"}
      wide
      close={close}
      act={act}
      submit={() => void make()}
      back={looking ? () => setLooking(false) : undefined}
      label={looking ? verb : "See what changes"}
      kind={looking && d.effect === "deny" ? "danger" : "primary"}
      why={looking ? why("bindings.create") : ""}
      disabled={!d.who.ref || !d.role || Object.values(wrong).some(Boolean)}
      same={{ cli, api: call(BindingService.method.createBinding, request) }}
    >
      {looking ? (
        <>
          <Facts
            of={[
              ["Who", `${kindWords[d.who.kind]} ${d.who.ref}`],
              ["Role", d.role],
              ["Where", called(d.spot)],
              ["Hosts", d.hosts],
              ["Second factor", mfa !== undefined && `given within ${formatDuration(mfa)}`],
              ["From", addresses.join(", ")],
              ["Ticket", d.ticket && `matches ${d.ticket}`],
              ["Begins", from?.toLocaleString()],
              ["Ends", until?.toLocaleString()],
            ]}
          />
          <Diff request={{ at: atOf(d.spot), add: [request] }} where={where} />
        </>
      ) : (
        <>
          <WhoFields autoFocus value={d.who} set={(who) => set({ who })} />
          <div className="grid gap-4 sm:grid-cols-2">
            <RoleField value={d.role} set={(role) => set({ role })} />
            <Field label="Where it holds">{(at) => <SpotSelect {...at} value={d.spot} set={(spot) => set({ spot })} />}</Field>
          </div>
          <Choice
            label="What it does"
            value={d.effect}
            set={(effect) => set({ effect })}
            of={[
              { value: "allow", label: "gives the role" },
              { value: "deny", label: "denies what the role holds: a denial wins" },
            ]}
          />
          <Field label="Only on hosts with these labels" hint="env=prod,role in (db,web); empty: all hosts, and everything else there">
            {(at) => <Input {...at} value={d.hosts} onChange={(e) => set({ hosts: e.target.value })} />}
          </Field>
          <details open={conditional || d.from !== "" || d.until !== "" || undefined}>
            <summary className="text-[13px] font-medium">Conditions and time</summary>
            <div className="mt-3 grid gap-4 sm:grid-cols-2">
              <Field label="Begins" hint="8h from now, or a time; empty: at once" error={wrong.from || undefined}>
                {(at) => <Input {...at} value={d.from} onChange={(e) => set({ from: e.target.value })} />}
              </Field>
              <Field label="Ends" hint="8h from now, or a time; empty: never" error={wrong.until || undefined}>
                {(at) => <Input {...at} value={d.until} onChange={(e) => set({ until: e.target.value })} />}
              </Field>
              <Field label="Second factor given within" hint="15m; empty: not asked for" error={wrong.mfa}>
                {(at) => <Input {...at} value={d.mfa} onChange={(e) => set({ mfa: e.target.value.trim() })} />}
              </Field>
              <Field label="From addresses" hint="10.0.0.0/8; empty: any">
                {(at) => <Input {...at} value={d.addresses} onChange={(e) => set({ addresses: e.target.value })} />}
              </Field>
              <Field label="Ticket matches" hint="OPS-[0-9]+; empty: none is asked for">
                {(at) => <Input {...at} value={d.ticket} onChange={(e) => set({ ticket: e.target.value })} />}
              </Field>
              <Field label="Why" hint="stands with the binding">
                {(at) => <Input {...at} value={d.description} maxLength={500} onChange={(e) => set({ description: e.target.value })} />}
              </Field>
            </div>
          </details>
        </>
      )}
    </FormDialog>
  );
}
