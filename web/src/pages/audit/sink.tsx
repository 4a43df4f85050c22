// One receiver of the audit log: how it fares, what it refused, and what can be done.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { useState } from "react";
import { sinks as api } from "../../api/sinks";
import { parseDuration } from "../../api/duration";
import { SinkService, type Sink } from "../../api/gen/loopback/v1/sink_pb";
import { command } from "../../api/shell";
import { useSession } from "../../app/session";
import { useSpots } from "../../app/spot";
import { Ago, Button, Dialog, Facts, Field, Input, State } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { Letters } from "./letters";

type Act = "pause" | "resume" | "replay" | "delete";

// How far behind a receiver is follows from two positions, one of which moves with every act of anybody: nothing tells of it.
const look = 3000;

export function SinkDialog({ listed, close }: { listed: Sink; close: () => void }) {
  const { why } = useSession();
  const { called } = useSpots();
  const [doing, setDoing] = useState<Act>();
  const now = useQuery({ queryKey: ["sinks", "now", listed.id], queryFn: () => api.getSink({ sink: listed.id }), initialData: listed, refetchInterval: look });
  const s = now.data;
  if (doing) return <Do s={s} what={doing} back={() => setDoing(undefined)} close={close} />;
  return (
    <Dialog title={s.name} wide={s.deadLetters > 0n} open close={close}>
      <Facts
        of={[
          ["State", <State key="s" of={s.state} />],
          ["Kind", s.kind],
          ["To", <span key="t" className="font-mono text-[12.5px]">{s.target}</span>],
          ["Format", s.format],
          ["Gets", s.organisationId ? `what happens in ${called(`organisation:${s.organisationId}`)}` : "everything"],
          ["Has entries up to", s.position.toLocaleString()],
          ["Behind by", `${s.lag.toLocaleString()} ${s.lag === 1n ? "entry" : "entries"}`],
          ["Delivered", s.delivered.toLocaleString()],
          ["Last delivery", <Ago key="d" at={s.deliveredAt} />],
          ["Failed tries", s.failures > 0n && `${s.failures.toLocaleString()} in a row`],
          ["Last error", s.lastError && <span key="e"><span className={s.failures > 0n ? "text-bad" : "text-soft"}>{s.lastError}</span> <Ago at={s.failedAt} /></span>],
          ["Made", <Ago key="c" at={s.createdAt} />],
          ["Id", <span key="i" className="font-mono text-[12.5px]">{s.id}</span>],
        ]}
      />
      {s.deadLetters > 0n && <Letters s={s} />}
      <div className="flex flex-wrap justify-end gap-2">
        <Button onClick={close}>Close</Button>
        <Button why={why("sinks.update")} onClick={() => setDoing("replay")}>
          Send again…
        </Button>
        <Button why={why("sinks.update")} onClick={() => setDoing(s.state === "paused" ? "resume" : "pause")}>
          {s.state === "paused" ? "Resume…" : "Pause…"}
        </Button>
        <Button kind="danger" why={why("sinks.delete")} onClick={() => setDoing("delete")}>
          Remove…
        </Button>
      </div>
    </Dialog>
  );
}

function Do({ s, what, back, close }: { s: Sink; what: Act; back: () => void; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [opened] = useState(Date.now);
  const [since, setSince] = useState("24h");
  const span = parseDuration(since);
  const at = span !== undefined ? new Date(opened - span * 1000) : new Date(Date.parse(since));
  const wrong = Number.isNaN(at.getTime()) ? "write it like 24h, or 2026-07-01T00:00Z" : undefined;
  const update = what === "replay" ? { sink: s.id, replaySince: wrong ? undefined : timestampFromDate(at) } : { sink: s.id, paused: what === "pause" };
  const acts = {
    pause: { title: `Pause ${s.name}?`, means: "Nothing is sent until it is resumed; then everything that happened meanwhile is.", label: "Pause" },
    resume: { title: `Resume ${s.name}?`, means: `It goes on where it was paused: ${s.lag.toLocaleString()} entries wait.`, label: "Resume" },
    replay: { title: `Send the past to ${s.name} again?`, means: "Everything from then on is sent once more, under the ids that it had: the receiver can drop what it has.", label: "Send again" },
    delete: { title: `Remove ${s.name} for good?`, means: `What it was not sent yet, it will not get${s.lag > 0n ? `: ${s.lag.toLocaleString()} entries now` : ""}. What it has stays there.`, label: "Remove" },
  }[what];
  return (
    <FormDialog
      title={acts.title}
      close={close}
      back={back}
      act={act}
      kind={what === "delete" ? "danger" : "primary"}
      label={acts.label}
      disabled={what === "replay" && wrong !== undefined}
      submit={() =>
        void act.run(() => (what === "delete" ? api.deleteSink({ sink: s.id }) : api.updateSink(update))).then((done) => {
          if (!done) return;
          void queries.invalidateQueries({ queryKey: ["sinks"] });
          if (what === "delete") close();
          else back();
        })
      }
      same={{
        cli: command(`sink ${what} ${s.id}`, [["since", what === "replay" ? since : ""]]),
        api: what === "delete" ? call(SinkService.method.deleteSink, { sink: s.id }) : call(SinkService.method.updateSink, update),
      }}
    >
      <p>{acts.means}</p>
      {what === "replay" && (
        <Field label="From" hint="so long ago, or a time" error={wrong}>
          {(id) => <Input {...id} autoFocus required value={since} onChange={(e) => setSince(e.target.value.trim())} />}
        </Field>
      )}
    </FormDialog>
  );
}
