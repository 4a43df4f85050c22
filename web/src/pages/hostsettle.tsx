// Who wins where a host is ahead of the control plane, as after restoring an old backup.
import { useState } from "react";
import { api } from "../api/client";
import { HostService, type Host } from "../api/gen/loopback/v1/host_pb";
import { command } from "../api/shell";
import { Field, Input } from "../ui/basics";
import { call, Choice, FormDialog, useAct } from "../ui/form";

const winners = [
  { value: "host", label: "The host", means: "The control plane takes over what the host holds, as settings and labels of this host." },
  { value: "control-plane", label: "The control plane", means: "The host takes what the control plane has. What it holds now is gone." },
] as const;

export function SettleDialog({ h, close, done }: { h: Host; close: () => void; done: (h: Host) => void }) {
  const frozen = h.sections.filter((s) => s.frozen);
  const act = useAct();
  const [winner, setWinner] = useState("");
  const [reason, setReason] = useState("");
  const request = { host: h.id, winner, reason: reason.trim() };
  return (
    <FormDialog
      title={`${h.name} is ahead of the control plane`}
      close={close}
      act={act}
      label="Settle"
      disabled={winner === ""}
      submit={() => void act.run(async () => done(await api.hosts.settleHost(request)))}
      same={{ cli: command(`host settle ${h.id}`, [["winner", winner || "WINNER"], ["reason", request.reason]]), api: call(HostService.method.settleHost, request) }}
    >
      <p>
        It holds {frozen.map((s) => `${s.name} ${s.revision}`).join(", ")}; the control plane has {frozen.map((s) => s.desiredRevision || "nothing").join(", ")}, as after restoring an old backup. Until you say who wins, the host keeps what it has.
      </p>
      <Choice label="Whose value counts?" value={winner} set={setWinner} of={winners} />
      <Field label="Reason" hint="goes to the audit log">
        {(at) => <Input {...at} maxLength={500} value={reason} onChange={(e) => setReason(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}
