// Offering a role to be asked for.
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { grantPolicies } from "../../api/grants";
import { parseDuration, toProto } from "../../api/duration";
import { GrantPolicyService } from "../../api/gen/loopback/v1/grant_pb";
import { command } from "../../api/shell";
import { atOf, SpotSelect, useSpots } from "../../app/spot";
import { Button, Command, Dialog, Field, Input } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { useAll } from "../access/names";
import { RoleField } from "../access/picks";

export function PolicyForm({ close }: { close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const { flag } = useSpots();
  const groups = useAll("group");
  const [name, setName] = useState("");
  const [description, setDescription] = useState("");
  const [role, setRole] = useState("");
  const [spot, setSpot] = useState("");
  const [approvals, setApprovals] = useState("1");
  const [approvers, setApprovers] = useState<readonly string[]>([]);
  const [ticketPattern, setTicketPattern] = useState("");
  const [longest, setLongest] = useState("8h");
  const [open, setOpen] = useState("24h");
  const [webhook, setWebhook] = useState("");
  const [ca, setCa] = useState("");
  const [secret, setSecret] = useState("");
  const [made, setMade] = useState("");
  const [max, wait] = [parseDuration(longest), parseDuration(open)];
  const wrong = (d: number | undefined) => (d === undefined ? "write it like 2h or 7d" : undefined);
  const request = { name, description, role, ...atOf(spot), approvals: Number(approvals), approvers: [...approvers], ticketPattern, maxDuration: max === undefined ? undefined : toProto(max), wait: wait === undefined ? undefined : toProto(wait), webhook, ca, secret };
  const finish = () => {
    void queries.invalidateQueries({ queryKey: ["grant policies"] });
    close();
  };
  const send = () =>
    void act.run(async () => {
      const answer = await grantPolicies.createGrantPolicy(request);
      if (answer.secret && !secret) setMade(answer.secret);
      else finish();
    });
  if (made) {
    return (
      <Dialog title="Keep this secret" open close={finish}>
        <p>
          The webhook checks by it that requests come from here. It is shown <strong>once</strong>.
        </p>
        <Command text={made} label="secret" />
        <div className="flex justify-end">
          <Button kind="primary" onClick={finish}>
            I have kept it
          </Button>
        </div>
      </Dialog>
    );
  }
  return (
    <FormDialog
      title="New grant policy"
      wide
      close={close}
      act={act}
      submit={send}
      label="Offer it"
      disabled={!name || max === undefined || wait === undefined}
      same={{
        cli: command(`grant-policy create ${name || "NAME"}`, [["role", role], flag(spot), ["approvals", approvals], ["approvers", approvers], ["ticket-pattern", ticketPattern], ["max-for", longest], ["open-for", open], ["webhook", webhook], ["webhook-ca-file", ca && "ca.pem"], ["webhook-secret-file", secret && "secret.txt"], ["description", description]]),
        api: call(GrantPolicyService.method.createGrantPolicy, { ...request, secret: secret && "whsec_…" }),
      }}
    >
      <div className="grid gap-4 sm:grid-cols-2">
        <Field label="Name">{(at) => <Input {...at} autoFocus required value={name} placeholder="debug-prod" onChange={(e) => setName(e.target.value)} />}</Field>
        <Field label="What it is for">{(at) => <Input {...at} maxLength={500} value={description} onChange={(e) => setDescription(e.target.value)} />}</Field>
        <RoleField value={role} set={setRole} any="any role, which needs an approval" />
        <Field label="Where it can be asked for">{(at) => <SpotSelect {...at} value={spot} set={setSpot} />}</Field>
        <Field label="People who have to approve" hint="0: who asks gets it">
          {(at) => <Input {...at} type="number" min={0} max={10} required value={approvals} onChange={(e) => setApprovals(e.target.value)} />}
        </Field>
        <Field label="Ticket matches" hint="OPS-[0-9]+; empty: none is asked for">
          {(at) => <Input {...at} value={ticketPattern} onChange={(e) => setTicketPattern(e.target.value)} />}
        </Field>
        <Field label="For at most" hint="24h at most where the role holds tier 0" error={wrong(max)}>
          {(at) => <Input {...at} required value={longest} onChange={(e) => setLongest(e.target.value.trim())} />}
        </Field>
        <Field label="A request stays open" error={wrong(wait)}>
          {(at) => <Input {...at} required value={open} onChange={(e) => setOpen(e.target.value.trim())} />}
        </Field>
      </div>
      <fieldset>
        <legend className="mb-1 text-[13px] font-medium">Approvers are in one of these groups</legend>
        {groups.length === 0 ? (
          <p className="text-[12px] text-soft">There is no group: whoever holds grants.approve there approves.</p>
        ) : (
          <div className="flex max-h-28 flex-wrap gap-x-4 gap-y-1 overflow-auto">
            {groups.map((g) => (
              <label key={g.id} className="flex items-center gap-2 text-[13px]">
                <input type="checkbox" name="approvers" checked={approvers.includes(g.name)} onChange={(e) => setApprovers((old) => (e.target.checked ? [...old, g.name] : old.filter((n) => n !== g.name)))} />
                {g.name}
              </label>
            ))}
          </div>
        )}
        <p className="mt-1 text-[12px] text-soft">None chosen: whoever holds grants.approve there.</p>
      </fieldset>
      <details>
        <summary className="text-[13px] font-medium">Ask a webhook first</summary>
        <div className="mt-3 grid gap-4">
          <Field label="Address" hint="https://…; no answer within 10 seconds is a denial">
            {(at) => <Input {...at} type="url" value={webhook} onChange={(e) => setWebhook(e.target.value.trim())} />}
          </Field>
          <Field label="Who signed its certificate" hint="PEM; empty: whom this system trusts">
            {(at) => <textarea {...at} rows={3} spellCheck={false} value={ca} onChange={(e) => setCa(e.target.value)} className="w-full rounded-md border border-edge/50 bg-card px-2.5 py-1.5 font-mono text-[12px] hover:border-edge" />}
          </Field>
          <Field label="Secret" hint="whsec_…; empty: one is made, and shown once">
            {(at) => <Input {...at} type="password" value={secret} onChange={(e) => setSecret(e.target.value.trim())} />}
          </Field>
        </div>
      </details>
    </FormDialog>
  );
}
