// The machines that hold one host's identity, and who goes on as the host.
import { useState } from "react";
import { api } from "../api/client";
import { HostService, type Host, type HostCopy } from "../api/gen/loopback/v1/host_pb";
import { command } from "../api/shell";
import { useSession } from "../app/session";
import { Ago, Button, Card, Field, Input, State } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";

type Fate = "split" | "drop";

const fates: Record<Fate, { label: string; permission: string; means: (others: number) => string }> = {
  split: {
    label: "Make hosts of the others",
    permission: "hosts.split",
    means: (n) => (n === 1 ? "The other becomes a host of its own, in the same workspace and with the same labels." : `The ${n} others become hosts of their own, in the same workspace and with the same labels.`),
  },
  drop: {
    label: "Shut the others out",
    permission: "hosts.drop",
    means: (n) => (n === 1 ? "The other is refused for good. To come back it has to be installed anew." : `The ${n} others are refused for good. To come back they have to be installed anew.`),
  },
};

export function Copies({ h, changed }: { h: Host; changed: () => void }) {
  const { why } = useSession();
  const [kept, setKept] = useState<string>();
  const [fate, setFate] = useState<Fate>();
  if (h.copies.length === 0) return null;
  const open = h.copies.filter((c) => c.verdict === "undecided");
  const chosen = open.find((c) => c.bootId === kept);
  return (
    <Card title="Machines with this host's identity" flush>
      {open.length > 0 && (
        <p className="border-b border-line px-4 py-2 text-warn">
          Its disk was copied: {open.length} machines hold its key. Each keeps its last configuration and gets nothing new until you say which one is the host.
        </p>
      )}
      <ul>
        {h.copies.map((c) => (
          <li key={c.bootId} className="border-b border-line/70 last:border-0">
            <label className="flex items-center gap-3 px-4 py-2.5 has-checked:bg-sunk">
              {c.verdict === "undecided" && <input type="radio" name="kept" value={c.bootId} checked={kept === c.bootId} onChange={() => setKept(c.bootId)} aria-label={`${named(c)} is the host`} className="size-4 accent-(--color-accent)" />}
              <span className="min-w-0 flex-1">
                <span className="font-medium wrap-anywhere">{c.hostName || "a machine without a name"}</span> <span className="font-mono text-[12.5px]">{c.address}</span>
                <span className="block text-[12px] text-soft wrap-anywhere">
                  boot {c.bootId.slice(0, 8)}
                  {c.agentVersion && `, agent ${c.agentVersion}`}, seen <Ago at={c.seenAt} />
                </span>
              </span>
              <State of={c.verdict} />
            </label>
          </li>
        ))}
      </ul>
      {open.length > 0 && (
        <div className="flex flex-wrap items-center justify-end gap-2 border-t border-line px-4 py-2.5">
          <span className="flex-1 text-[12.5px] text-soft">{chosen ? `${named(chosen)} goes on as ${h.name}.` : "Choose the one that is the host."}</span>
          {(["split", "drop"] as const).map((f) => (
            <Button key={f} kind={f === "drop" ? "danger" : "primary"} why={why(fates[f].permission)} disabled={!chosen} onClick={() => setFate(f)}>
              {fates[f].label}
            </Button>
          ))}
        </div>
      )}
      {fate && chosen && (
        <Decide
          h={h}
          fate={fate}
          keep={chosen}
          others={open.length - 1}
          close={() => setFate(undefined)}
          done={() => {
            setFate(undefined);
            changed();
          }}
        />
      )}
    </Card>
  );
}

function named(c: HostCopy): string {
  return c.hostName ? `${c.hostName} at ${c.address}` : c.address;
}

function Decide({ h, fate, keep, others, close, done }: { h: Host; fate: Fate; keep: HostCopy; others: number; close: () => void; done: () => void }) {
  const act = useAct();
  const [reason, setReason] = useState("");
  const f = fates[fate];
  const request = { host: h.id, keep: keep.bootId, reason: reason.trim() };
  return (
    <FormDialog
      title={`${named(keep)} is ${h.name}`}
      close={close}
      act={act}
      kind={fate === "drop" ? "danger" : "primary"}
      label={f.label}
      submit={() =>
        void act.run(async () => {
          await (fate === "split" ? api.hosts.splitHost(request) : api.hosts.dropHostCopy(request));
          done();
        })
      }
      same={{ cli: command(`host ${fate} ${h.id}`, [["keep", keep.bootId], ["reason", request.reason]]), api: fate === "split" ? call(HostService.method.splitHost, request) : call(HostService.method.dropHostCopy, request) }}
    >
      <p>
        It goes on as {h.name}, with a new key. {f.means(others)}
      </p>
      <Field label="Reason" hint="goes to the audit log">
        {(at) => <Input {...at} autoFocus maxLength={500} value={reason} onChange={(e) => setReason(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}
