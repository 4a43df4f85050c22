// Acts on one or many hosts: what they will do and to whom, then how it went, host by host.
import { useState } from "react";
import { api, troubleOf } from "../api/client";
import type { Host } from "../api/gen/loopback/v1/host_pb";
import { Button, Command, Dialog, Field, Input, Spinner, State } from "../ui/basics";

export type Act = "approve" | "quarantine" | "release" | "remove";

const words: Record<Act, { title: string; means: string; done: string; reason: boolean; danger?: boolean; applies: (h: Host) => boolean; do: (h: Host, reason: string) => Promise<unknown> }> = {
  approve: {
    title: "Approve",
    means: "It is let in and gets its configuration.",
    done: "approved",
    reason: false,
    applies: (h) => h.state === "pending",
    do: (h) => api.hosts.approveHost({ host: h.id }),
  },
  quarantine: {
    title: "Quarantine",
    means: "It stays linked, but receives nothing and may do nothing.",
    done: "quarantined",
    reason: true,
    applies: (h) => h.state !== "removed" && h.state !== "quarantined" && h.state !== "unmanaged",
    do: (h, reason) => api.hosts.quarantineHost({ host: h.id, reason, requestId: crypto.randomUUID() }),
  },
  release: {
    title: "Release",
    means: "Its quarantine ends.",
    done: "released",
    reason: true,
    applies: (h) => h.state === "quarantined",
    do: (h, reason) => api.hosts.releaseHost({ host: h.id, reason }),
  },
  remove: {
    title: "Remove",
    means: "Its link closes and its key is dead. To come back it has to be installed anew.",
    done: "removed",
    reason: true,
    danger: true,
    applies: (h) => h.state !== "removed",
    do: (h, reason) => api.hosts.removeHost({ host: h.id, reason, requestId: crypto.randomUUID() }),
  },
};

const atOnce = 8;

export function HostActs({ act, hosts, close }: { act: Act; hosts: Host[]; close: () => void }) {
  const w = words[act];
  // The set is fixed when the dialog opens: what the act itself changes must not change whom it is done to.
  const [set] = useState(() => hosts.filter(w.applies));
  const [skipped] = useState(hosts.length - set.length);
  const [reason, setReason] = useState("");
  const [results, setResults] = useState<Record<string, string>>(); // error by host; empty: done
  const [busy, setBusy] = useState(false);
  async function run(some: Host[]) {
    setBusy(true);
    const queue = [...some];
    const all: Record<string, string> = { ...results };
    const worker = async () => {
      for (let h = queue.shift(); h; h = queue.shift()) {
        try {
          await w.do(h, reason.trim());
          all[h.id] = "";
        } catch (error) {
          const t = troubleOf(error);
          all[h.id] = t.hint ? `${t.message} (${t.hint})` : t.message;
        }
        setResults({ ...all });
      }
    };
    await Promise.all(Array.from({ length: Math.min(atOnce, some.length) }, worker));
    setBusy(false);
  }
  const failed = results ? set.filter((h) => results[h.id]) : [];
  const ended = results !== undefined && !busy;
  const name = set.length === 1 ? set[0]!.name : `${set.length} hosts`;
  return (
    <Dialog title={`${w.title} ${name}`} open close={close}>
      <p>{w.means}</p>
      {skipped > 0 && <p className="text-soft">{skipped} of the selected hosts are left out: it does not apply to their state.</p>}
      <ul aria-label="hosts" className="max-h-48 divide-y divide-line/70 overflow-auto rounded-md border border-line">
        {set.map((h) => (
          <li key={h.id} className="flex items-center gap-2 px-3 py-1.5">
            <span className="min-w-0 flex-1 truncate">{h.name}</span>
            {results?.[h.id] === undefined ? busy ? <Spinner /> : <State of={h.state} /> : results[h.id] === "" ? <span className="text-good">{w.done}</span> : <span className="max-w-80 text-right text-[12px] text-bad">{results[h.id]}</span>}
          </li>
        ))}
      </ul>
      {w.reason && !ended && <Field label="Reason" hint="goes to the audit log">{(at) => <Input {...at} value={reason} autoFocus maxLength={500} onChange={(e) => setReason(e.target.value)} />}</Field>}
      {!ended && (
        <details>
          <summary className="text-[13px] text-soft">The same on the command line</summary>
          <div className="mt-2">
            <Command text={`loopback host ${act} ${set.slice(0, 20).map((h) => h.id).join(" ")}${set.length > 20 ? " …" : ""}${w.reason && reason ? ` --reason ${JSON.stringify(reason)}` : ""}`} />
          </div>
        </details>
      )}
      <div className="flex justify-end gap-2">
        <Button onClick={close}>{ended ? "Close" : "Cancel"}</Button>
        {ended && failed.length > 0 && <Button kind="primary" onClick={() => void run(failed)}>{`Try ${failed.length} again`}</Button>}
        {!ended && (
          <Button kind={w.danger ? "danger" : "primary"} busy={busy} disabled={set.length === 0} onClick={() => void run(set)}>
            {w.title}
          </Button>
        )}
      </div>
    </Dialog>
  );
}
