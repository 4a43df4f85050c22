// Has a host's agent stop and start one of its modules, and shows how that went.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api/client";
import { HostService, type Host } from "../api/gen/loopback/v1/host_pb";
import type { Operation } from "../api/gen/loopback/v1/operation_pb";
import { command, quoted } from "../api/shell";
import { Button, Dialog, Field, Input, Spinner } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";
import { ended, Steps } from "./operations";

export function RestartDialog({ h, module, close }: { h: Host; module: string; close: () => void }) {
  const act = useAct();
  const [reason, setReason] = useState("");
  const [begun, setBegun] = useState<Operation>();
  const request = { host: h.id, module, reason: reason.trim() };
  if (begun) return <Restarting title={`Restart ${module} on ${h.name}`} begun={begun} close={close} />;
  return (
    <FormDialog
      title={`Restart ${module} on ${h.name}`}
      close={close}
      act={act}
      label="Restart"
      submit={() => void act.run(async () => setBegun(await api.hosts.restartModule({ ...request, requestId: crypto.randomUUID() })))}
      same={{ cli: command(`host restart-module ${h.id} ${quoted(module)}`, [["reason", request.reason]]), api: call(HostService.method.restartModule, request) }}
    >
      <p>The agent stops and starts this module, applies anew what it applied last, and looks at its health. The agent itself, and its other modules, go on.</p>
      <Field label="Reason" hint="goes to the audit log">
        {(at) => <Input {...at} autoFocus maxLength={500} value={reason} onChange={(e) => setReason(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}

function Restarting({ title, begun, close }: { title: string; begun: Operation; close: () => void }) {
  const queries = useQueryClient();
  // One that is under way is waited for, not asked after.
  const { data: o = begun } = useQuery({
    queryKey: ["operations", "wait", begun.id],
    queryFn: async ({ signal }) => {
      const now = await api.operations.waitOperation({ operation: begun.id }, { signal });
      if (ended.has(now.state)) {
        void queries.invalidateQueries({ queryKey: ["hosts"] });
        void queries.invalidateQueries({ queryKey: ["audit"] });
      }
      return now;
    },
    refetchInterval: (q) => (q.state.data && ended.has(q.state.data.state) ? false : 1000),
  });
  return (
    <Dialog title={title} open close={close}>
      <p role="status" className="flex items-center gap-2">
        {o.state === "succeeded" ? (
          "It was restarted."
        ) : ended.has(o.state) ? (
          <span className="text-bad">It did not go well.</span>
        ) : (
          <>
            <Spinner /> The host restarts it
          </>
        )}
      </p>
      <Steps of={o} />
      <div className="flex justify-end">
        <Button kind="primary" onClick={close}>
          Close
        </Button>
      </div>
    </Dialog>
  );
}
