// One entry of the audit log, and the proof that it is in it.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { toJson } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { useState } from "react";
import { api } from "../../api/client";
import { AuditService, type AuditEntry } from "../../api/gen/loopback/v1/audit_pb";
import { command } from "../../api/shell";
import { paths } from "../../app/paths";
import { useSession } from "../../app/session";
import { Ago, Button, Command, Dialog, Facts, Problem, State, Waiting } from "../../ui/basics";
import { call, Same, useAct } from "../../ui/form";
import { verifyEntry } from "./prove";
import { Steps } from "./steps";

export function Entry({ e, close }: { e: AuditEntry; close: () => void }) {
  const json = (v: AuditEntry["before"]) => (v ? JSON.stringify(toJson(ValueSchema, v), null, 2) : "–");
  return (
    <Dialog title={e.action} open close={close}>
      <Facts
        of={[
          ["Outcome", <State key="o" of={e.outcome} />],
          ["When", <Ago key="w" at={e.at} />],
          ["Who", `${e.actor?.name || e.actor?.kind} (${e.actor?.id || e.actor?.kind})`],
          ["By", e.actor?.method && e.actor.method.replaceAll("_", " ")],
          ["On behalf of", e.actor?.principal],
          ["Second factor", e.actor?.mfaAt && <Ago key="m" at={e.actor.mfaAt} />],
          ["From", e.actor?.address],
          ["To", e.targetName ? `${e.targetName} (${e.target})` : e.target],
          ["Why", e.reason],
          ["Ticket", e.ticket],
          ["Allowed by", e.decision && (e.snapshot ? `${e.decision}, rules ${e.snapshot}` : e.decision)],
          ["By the grant", e.grant && <Link key="g" to={paths.grants} search={{ open: e.grant.id } as never} className="text-accent hover:underline">{e.grant.approvers.length > 0 ? `approved by ${e.grant.approvers.map((a) => a.name || a.id).join(", ")}` : "that needed no approval"}</Link>],
          ["Position", e.position.toString()],
          ["Request", e.requestId && <span key="r" className="font-mono text-[12.5px]">{e.requestId}</span>],
        ]}
      />
      <div className="grid gap-3">
        {(["before", "after"] as const).map((side) => (
          <div key={side} className="min-w-0">
            <h3 className="mb-1 text-[12px] text-soft">{side}</h3>
            <pre tabIndex={0} className="max-h-48 overflow-auto rounded-md border border-line bg-sunk p-2 font-mono text-[12px]">
              {json(e[side])}
            </pre>
          </div>
        ))}
      </div>
      <Proved id={e.id} close={close} />
    </Dialog>
  );
}

/** Proves an entry on demand, and shows what it rests on. */
function Proved({ id, close }: { id: string; close: () => void }) {
  const { why } = useSession();
  const act = useAct();
  const [found, setFound] = useState<Awaited<ReturnType<typeof verifyEntry>>>();
  return (
    <>
      {found && (
        <section aria-label="proof" className="flex flex-col gap-3 rounded-md border border-line p-3">
          <Steps of={found.steps} />
          {found.log && (
            <details>
              <summary className="text-[13px] text-soft">What was signed: the entry, the checkpoint and the key</summary>
              <div className="mt-2 flex flex-col gap-2">
                <Command text={found.leaf ?? ""} label="the entry as it is hashed" />
                <Command text={found.log.said.checkpoint} label="checkpoint" />
                <Command text={found.log.said.key} label="key" />
              </div>
            </details>
          )}
          <Same cli={command(`audit verify ${id}`)} api={call(AuditService.method.proveEntry, { entry: id })} />
        </section>
      )}
      {act.error !== undefined && <Problem error={act.error} />}
      <div className="flex justify-end gap-2">
        <Button onClick={close}>Close</Button>
        {!found && (
          <Button kind="primary" busy={act.busy} why={why("audit.read")} onClick={() => void act.run(async () => setFound(await verifyEntry(id)))}>
            Prove it
          </Button>
        )}
      </div>
    </>
  );
}

/** An entry that the list does not show, from its proof: what was hashed is all of it. */
export function EntryAlone({ id, close }: { id: string; close: () => void }) {
  const found = useQuery({ queryKey: ["audit", "leaf", id], queryFn: () => api.audit.proveEntry({ entry: id }), retry: false });
  return (
    <Dialog title={id} open close={close}>
      {found.isPending ? (
        <Waiting rows={3} />
      ) : found.error ? (
        <Problem error={found.error} retry={() => void found.refetch()} />
      ) : (
        <pre tabIndex={0} aria-label="entry" className="max-h-96 overflow-auto rounded-md border border-line bg-sunk p-2 font-mono text-[12px]">
          {JSON.stringify(JSON.parse(found.data.leaf), null, 2)}
        </pre>
      )}
      <Proved id={id} close={close} />
    </Dialog>
  );
}
