// Who wins where a host is ahead of the control plane, as after restoring an old backup.
import { useState, type FormEvent } from "react";
import { api } from "../api/client";
import type { Host } from "../api/gen/loopback/v1/host_pb";
import { Button, Command, Dialog, Field, Input, Problem } from "../ui/basics";

const winners = [
  { value: "host", label: "The host", means: "The control plane takes over what the host holds, as settings and labels of this host." },
  { value: "control-plane", label: "The control plane", means: "The host takes what the control plane has. What it holds now is gone." },
] as const;

export function SettleDialog({ h, close, done }: { h: Host; close: () => void; done: (h: Host) => void }) {
  const frozen = h.sections.filter((s) => s.frozen);
  const [winner, setWinner] = useState<string>();
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  async function submit(e: FormEvent) {
    e.preventDefault();
    if (!winner) return;
    setBusy(true);
    setError(undefined);
    try {
      done(await api.hosts.settleHost({ host: h.id, winner, reason: reason.trim() }));
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  }
  const quoted = reason.trim() ? ` --reason '${reason.trim().replaceAll("'", "'\\''")}'` : "";
  return (
    <Dialog title={`${h.name} is ahead of the control plane`} open close={close}>
      <form className="flex flex-col gap-4" onSubmit={(e) => void submit(e)}>
        <p>
          It holds {frozen.map((s) => `${s.name} ${s.revision}`).join(", ")}; the control plane has {frozen.map((s) => s.desiredRevision || "nothing").join(", ")}, as after restoring an old backup. Until you say who wins, the host keeps what it has.
        </p>
        <fieldset className="flex flex-col gap-2">
          <legend className="mb-1 text-[13px] font-medium">Whose value counts?</legend>
          {winners.map((w) => (
            <label key={w.value} className="flex items-start gap-3 rounded-md border border-line px-3 py-2 has-checked:border-accent has-checked:bg-sunk">
              <input type="radio" name="winner" value={w.value} checked={winner === w.value} onChange={() => setWinner(w.value)} className="mt-0.5 size-4 accent-(--color-accent)" />
              <span>
                <span className="font-medium">{w.label}</span>
                <span className="block text-[12.5px] text-soft">{w.means}</span>
              </span>
            </label>
          ))}
        </fieldset>
        <Field label="Reason" hint="goes to the audit log">
          {(at) => <Input {...at} maxLength={500} value={reason} onChange={(e) => setReason(e.target.value)} />}
        </Field>
        {winner && <Command text={`loopback host settle ${h.id} --winner ${winner}${quoted}`} />}
        {error !== undefined && <Problem error={error} />}
        <div className="flex justify-end gap-2">
          <Button onClick={close}>Cancel</Button>
          <Button type="submit" kind="primary" busy={busy} disabled={!winner}>
            Settle
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
