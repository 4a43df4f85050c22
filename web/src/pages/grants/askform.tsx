// Asking for a role: what a policy offers, for how long, and why.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { grantPolicies, grants } from "../../api/grants";
import { formatDuration, parseDuration, seconds, toProto } from "../../api/duration";
import { GrantService, type GrantPolicy } from "../../api/gen/loopback/v1/grant_pb";
import { command } from "../../api/shell";
import { atOf, SpotSelect, spotOf, useSpots } from "../../app/spot";
import { Empty, Dialog, Field, Input, Problem, Select, Waiting } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { useName } from "../access/names";
import { RoleField } from "../access/picks";

export function AskForm({ close, done }: { close: () => void; done: (grant: string) => void }) {
  const offered = useQuery({ queryKey: ["grant policies", "all"], queryFn: () => grantPolicies.listGrantPolicies({ page: { size: 1000 } }) });
  if (!offered.data || offered.data.items.length === 0) {
    return (
      <Dialog title="Ask for a role" open close={close}>
        {offered.error ? (
          <Problem error={offered.error} retry={() => void offered.refetch()} />
        ) : offered.isPending ? (
          <Waiting rows={3} />
        ) : (
          <Empty title="Nothing can be asked for">
            <p>A grant policy offers a role at a place. There is none that you may see: ask an administrator to make one.</p>
          </Empty>
        )}
      </Dialog>
    );
  }
  return <Ask policies={offered.data.items} close={close} done={done} />;
}

function Ask({ policies, close, done }: { policies: GrantPolicy[]; close: () => void; done: (grant: string) => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const { called, flag } = useSpots();
  const [chosen, setChosen] = useState(policies[0]!.id);
  const policy = policies.find((p) => p.id === chosen) ?? policies[0]!;
  const offers = useName("role", policy.roleId);
  const [any, setAny] = useState("");
  const [narrower, setNarrower] = useState<string>();
  const [hosts, setHosts] = useState("");
  const [length, setLength] = useState("1h");
  const [reason, setReason] = useState("");
  const [ticket, setTicket] = useState("");
  const scope = spotOf(policy.scope);
  const spot = narrower ?? scope;
  const role = policy.roleId ? policy.roleId : any;
  const span = parseDuration(length);
  const longest = seconds(policy.maxDuration) ?? 0;
  const wrongLength = span === undefined ? "write it like 30m or 2h" : longest > 0 && span > longest ? `at most ${formatDuration(longest)}` : undefined;
  const request = { role, ...atOf(spot), hosts: hosts.trim(), duration: span === undefined ? undefined : toProto(span), reason: reason.trim(), ticket: ticket.trim() };
  const send = () =>
    void act.run(async () => {
      const asked = await grants.requestGrant(request);
      void queries.invalidateQueries({ queryKey: ["grants"] });
      done(asked.id);
    });
  return (
    <FormDialog
      title="Ask for a role"
      wide
      close={close}
      act={act}
      submit={send}
      label="Ask"
      disabled={!role || !reason.trim() || wrongLength !== undefined}
      same={{ cli: command("grant request", [["role", policy.roleId ? offers : any || "ROLE"], flag(spot), ["hosts", hosts.trim()], ["for", length], ["reason", reason.trim()], ["ticket", ticket.trim()]]), api: call(GrantService.method.requestGrant, request) }}
    >
      <Field label="What is offered" hint={[policy.description, policy.approvals === 0 ? "who asks gets it" : policy.approvals === 1 ? "one person has to approve" : `${policy.approvals} people have to approve`, policy.webhook && "a webhook is asked first"].filter(Boolean).join("; ")}>
        {(at) => (
          <Select
            {...at}
            autoFocus
            value={policy.id}
            onChange={(e) => {
              setChosen(e.target.value);
              setNarrower(undefined);
            }}
          >
            {policies.map((p) => (
              <Offer key={p.id} p={p} where={called(spotOf(p.scope))} />
            ))}
          </Select>
        )}
      </Field>
      {!policy.roleId && <RoleField value={any} set={setAny} />}
      <div className="grid gap-4 sm:grid-cols-2">
        <Field label="Where">{(at) => <SpotSelect {...at} inside={scope} value={spot} set={setNarrower} />}</Field>
        <Field label="Only on hosts with these labels" hint="env=prod; empty: all hosts, and everything else there">
          {(at) => <Input {...at} value={hosts} onChange={(e) => setHosts(e.target.value)} />}
        </Field>
        <Field label="For how long" hint={longest > 0 ? `at most ${formatDuration(longest)}` : undefined} error={wrongLength}>
          {(at) => <Input {...at} required value={length} onChange={(e) => setLength(e.target.value.trim())} />}
        </Field>
        <Field label="Ticket" hint={policy.ticketPattern ? `has to match ${policy.ticketPattern}` : "none is asked for"}>
          {(at) => <Input {...at} required={policy.ticketPattern !== ""} maxLength={128} value={ticket} onChange={(e) => setTicket(e.target.value)} />}
        </Field>
      </div>
      <Field label="Why" hint="approvers read it, and it stands in the audit log">
        {(at) => <Input {...at} required maxLength={1000} value={reason} onChange={(e) => setReason(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}

function Offer({ p, where }: { p: GrantPolicy; where: string }) {
  const role = useName("role", p.roleId);
  return (
    <option value={p.id}>
      {p.roleId ? role : "any role"}, {where} ({p.name})
    </option>
  );
}
