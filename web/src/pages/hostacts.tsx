// Acts on one or many hosts: what they will do and to whom, then how it went, host by host.
import { useRef, useState } from "react";
import { api, troubleOf } from "../api/client";
import { HostService, type Host } from "../api/gen/loopback/v1/host_pb";
import { quoted } from "../api/shell";
import { Button, Dialog, Field, Input, Spinner, State } from "../ui/basics";
import { call, EACH, Same, type Call } from "../ui/form";

export type Act = "approve" | "quarantine" | "release" | "remove";

const words: Record<Act, { title: string; means: [one: string, many: string]; done: string; reason: boolean; danger?: boolean; applies: (h: Host) => boolean; do: (h: Host, reason: string) => Promise<unknown>; call: (each: readonly string[], reason: string) => Call }> = {
  approve: {
    title: "Approve",
    means: ["It is let in and gets its configuration.", "They are let in and get their configuration."],
    done: "approved",
    reason: false,
    applies: (h) => h.state === "pending",
    do: (h) => api.hosts.approveHost({ host: h.id }),
    call: (each) => call(HostService.method.approveHost, { host: EACH }, { each }),
  },
  quarantine: {
    title: "Quarantine",
    means: ["It stays linked, but receives nothing and may do nothing.", "They stay linked, but receive nothing and may do nothing."],
    done: "quarantined",
    reason: true,
    applies: (h) => h.state !== "removed" && h.state !== "quarantined" && h.state !== "unmanaged",
    do: (h, reason) => api.hosts.quarantineHost({ host: h.id, reason, requestId: crypto.randomUUID() }),
    call: (each, reason) => call(HostService.method.quarantineHost, { host: EACH, reason }, { each }),
  },
  release: {
    title: "Release",
    means: ["Its quarantine ends.", "Their quarantine ends."],
    done: "released",
    reason: true,
    applies: (h) => h.state === "quarantined",
    do: (h, reason) => api.hosts.releaseHost({ host: h.id, reason }),
    call: (each, reason) => call(HostService.method.releaseHost, { host: EACH, reason }, { each }),
  },
  remove: {
    title: "Remove",
    means: ["Its link closes and its key is dead. To come back it has to be installed anew.", "Their links close and their keys are dead. To come back they have to be installed anew."],
    done: "removed",
    reason: true,
    danger: true,
    applies: (h) => h.state !== "removed",
    do: (h, reason) => api.hosts.removeHost({ host: h.id, reason, requestId: crypto.randomUUID() }),
    call: (each, reason) => call(HostService.method.removeHost, { host: EACH, reason }, { each }),
  },
};

const atOnce = 8;

/** How many are named; the rest is counted. */
const named = 100;

/** The same act for a shell: on hosts by id, or on all that a query finds. */
function commandFor(act: Act, set: Host[], reason: string, query?: { text: string; state: string }): string {
  const why = reason ? ` --reason ${quoted(reason)}` : "";
  if (!query) return `loopback host ${act}${why} ${set.map((h) => h.id).join(" ")}`;
  const find = `loopback host list -o json${query.text ? ` --query ${quoted(query.text)}` : ""}${query.state ? ` --state ${query.state}` : ""}`;
  return `${find} | jq -r '.items[].id' | xargs loopback host ${act}${why}`;
}

/** query is set where the hosts are all that it finds. */
export function HostActs({ act, hosts, query, close }: { act: Act; hosts: Host[]; query?: { text: string; state: string }; close: () => void }) {
  const w = words[act];
  // The set is fixed when the dialog opens: what the act itself changes must not change whom it is done to.
  const [set] = useState(() => hosts.filter(w.applies));
  const [skipped] = useState(hosts.length - set.length);
  const [reason, setReason] = useState("");
  const results = useRef(new Map<string, string>()); // error by host; empty: done
  const [shown, setShown] = useState(0); // of results: ten thousand hosts are not ten thousand renderings
  const [busy, setBusy] = useState(false);
  async function run(some: Host[]) {
    setBusy(true);
    const queue = [...some].reverse();
    for (const h of some) results.current.delete(h.id);
    const tick = setInterval(() => setShown(results.current.size), 100);
    const worker = async () => {
      for (let h = queue.pop(); h; h = queue.pop()) {
        try {
          await w.do(h, reason.trim());
          results.current.set(h.id, "");
        } catch (error) {
          const t = troubleOf(error);
          results.current.set(h.id, t.hint ? `${t.message} (${t.hint})` : t.message);
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(atOnce, some.length) }, worker));
    clearInterval(tick);
    setShown(results.current.size);
    setBusy(false);
  }
  const failed = set.filter((h) => results.current.get(h.id));
  const ended = shown > 0 && !busy;
  const list = [...failed, ...set.filter((h) => !results.current.get(h.id))].slice(0, named);
  const name = set.length === 1 ? set[0]!.name : `${set.length.toLocaleString()} hosts`;
  return (
    <Dialog title={`${w.title} ${name}`} open close={close}>
      <p>{w.means[set.length === 1 ? 0 : 1]}</p>
      {skipped > 0 && <p className="text-soft">{skipped.toLocaleString()} of the selected hosts are left out: it does not apply to their state.</p>}
      <ul aria-label="hosts" className="max-h-48 divide-y divide-line/70 overflow-auto rounded-md border border-line">
        {list.map((h) => (
          <li key={h.id} className="flex items-center gap-2 px-3 py-1.5">
            <span className="min-w-0 flex-1 truncate">{h.name}</span>
            {results.current.get(h.id) === undefined ? busy ? <Spinner /> : <State of={h.state} /> : results.current.get(h.id) === "" ? <span className="text-good">{w.done}</span> : <span className="max-w-80 text-right text-[12px] text-bad">{results.current.get(h.id)}</span>}
          </li>
        ))}
        {set.length > list.length && <li className="px-3 py-1.5 text-soft">and {(set.length - list.length).toLocaleString()} more</li>}
      </ul>
      {(busy || ended) && set.length > 1 && (
        <div role="status" className="space-y-1 text-[13px]">
          <progress className="h-1.5 w-full" style={{ accentColor: "var(--color-accent)" }} max={set.length} value={shown} aria-label="hosts done" />
          <p>
            {shown.toLocaleString()} of {set.length.toLocaleString()} done{failed.length > 0 && <span className="text-bad">, {failed.length.toLocaleString()} failed</span>}
          </p>
        </div>
      )}
      {w.reason && !ended && <Field label="Reason" hint="goes to the audit log">{(at) => <Input {...at} value={reason} autoFocus maxLength={500} onChange={(e) => setReason(e.target.value)} />}</Field>}
      {!ended && set.length > 0 && <Same cli={commandFor(act, set, w.reason ? reason.trim() : "", query)} api={w.call(set.map((h) => h.id), reason.trim())} />}
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
