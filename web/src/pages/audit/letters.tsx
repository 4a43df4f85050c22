// Entries that a receiver refused over and over while it took others.
import { useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { sinks as api } from "../../api/sinks";
import { SinkService, type Sink } from "../../api/gen/loopback/v1/sink_pb";
import { command } from "../../api/shell";
import { usePages } from "../../app/list";
import { paths } from "../../app/paths";
import { useSession } from "../../app/session";
import { Ago, Button, Problem } from "../../ui/basics";
import { call, Same, useAct } from "../../ui/form";

export function Letters({ s }: { s: Sink }) {
  const { why } = useSession();
  const queries = useQueryClient();
  const act = useAct();
  const [giving, setGiving] = useState<string[]>(); // up; empty: all
  const list = usePages(["sinks", "letters", s.id], (token) => api.getDeadLetters({ sink: s.id, page: { size: 100, token } }));
  const run = (does: () => Promise<unknown>) =>
    void act.run(does).then((done) => {
      if (!done) return;
      setGiving(undefined);
      void queries.invalidateQueries({ queryKey: ["sinks"] });
    });
  return (
    <section aria-label="entries that were set aside" className="flex flex-col gap-2">
      <h3 className="text-[13px] font-semibold">{s.deadLetters === 1n ? "1 entry was" : `${s.deadLetters.toLocaleString()} entries were`} set aside</h3>
      <p className="text-[12px] text-soft">The receiver refuses them while it takes others. Mend it, then try them once more; or give them up.</p>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <ul tabIndex={0} aria-label="dead letters" className="max-h-56 divide-y divide-line/70 overflow-auto rounded-md border border-line">
        {list.rows.map((l) => (
          <li key={l.id} className="flex flex-wrap items-center gap-x-3 gap-y-1 px-3 py-2">
            <span className="min-w-0 flex-1 basis-52">
              <Link to={paths.audit} search={{ open: l.entry } as never} className="font-mono text-[12.5px] hover:underline">
                {l.action}
              </Link>{" "}
              <span className="text-[12px] text-soft">
                position {l.position.toLocaleString()}, refused {l.tries.toLocaleString()}×, last <Ago at={l.refusedAt} />
              </span>
              <span className="block text-[12px] text-bad wrap-anywhere">{l.resend ? "waits to be sent again" : l.reason}</span>
            </span>
            <Button why={why("sinks.update")} disabled={l.resend} busy={act.busy} onClick={() => run(() => api.resendDeadLetters({ sink: s.id, deadLetters: [l.id] }))}>
              Try again
            </Button>
            <Button kind="danger" why={why("sinks.update")} onClick={() => setGiving([l.id])}>
              Give up…
            </Button>
          </li>
        ))}
      </ul>
      {list.rows.length < Number(s.deadLetters) && list.rows.length > 0 && (
        <Button kind="quiet" onClick={list.more}>
          Show more
        </Button>
      )}
      {giving ? (
        <div className="flex flex-col gap-2 rounded-md border border-bad/40 p-3">
          <p>{giving.length === 0 ? "Give all of them up?" : "Give this one up?"} The receiver will not get them, unless by a replay. It is in the audit log.</p>
          <Same cli={command(["sink dismiss", s.id, ...giving].join(" "))} api={call(SinkService.method.dismissDeadLetters, { sink: s.id, deadLetters: giving })} />
          <div className="flex justify-end gap-2">
            <Button onClick={() => setGiving(undefined)}>Back</Button>
            <Button kind="danger" busy={act.busy} onClick={() => run(() => api.dismissDeadLetters({ sink: s.id, deadLetters: giving }))}>
              Give up
            </Button>
          </div>
        </div>
      ) : (
        <div className="flex flex-col gap-2">
          <div className="flex flex-wrap gap-2">
            <Button why={why("sinks.update")} busy={act.busy} onClick={() => run(() => api.resendDeadLetters({ sink: s.id }))}>
              Try all again
            </Button>
            <Button kind="danger" why={why("sinks.update")} onClick={() => setGiving([])}>
              Give all up…
            </Button>
          </div>
          <Same cli={command(`sink resend ${s.id}`)} api={call(SinkService.method.resendDeadLetters, { sink: s.id })} />
        </div>
      )}
      {act.error !== undefined && <Problem error={act.error} />}
    </section>
  );
}
