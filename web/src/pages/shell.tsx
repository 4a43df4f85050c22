// One shell: taking part in it while it runs, and its recording after.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useParams, useSearch, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api } from "../api/client";
import { formatDuration, seconds } from "../api/duration";
import { ShellService, type ShellSession } from "../api/gen/loopback/v1/shell_pb";
import { command } from "../api/shell";
import { paths } from "../app/paths";
import { useSession } from "../app/session";
import { Player } from "../terminal/player";
import { LiveTerminal } from "../terminal/live";
import type { Mode } from "../terminal/connection";
import { Ago, Button, Card, Command, Facts, Field, Input, Page, Problem, State, Waiting } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";

export function ShellPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const search = useSearch({ strict: false }) as { as?: string };
  const navigate = useNavigate();
  const queries = useQueryClient();
  const { why, who } = useSession();
  const [killing, setKilling] = useState(false);
  const read = useQuery({ queryKey: ["shells", "one", id], queryFn: () => api.shells.getShellSession({ session: id }), retry: false, refetchInterval: (q) => (q.state.data?.state === "ended" && q.state.data.verdict !== "alone" ? false : 5_000) });
  const s = read.data;
  if (!s) {
    return <Page title="Shell">{read.error ? <Problem error={read.error} retry={() => void read.refetch()} /> : <Waiting />}</Page>;
  }
  const mine = s.principalId === who.principalId;
  const mode: Mode = search.as === "join" ? "join" : mine && search.as !== "watch" ? "own" : "watch";
  const as = (m: string | undefined) => void navigate({ to: ".", search: ((old: object) => ({ ...old, as: m })) as never, replace: true });
  return (
    <Page
      title={`${s.user}@${s.hostName}`}
      about={
        <span className="flex flex-wrap items-center gap-x-3 gap-y-1">
          <State of={s.state} reason={s.endReason} />
          <span>
            by {s.principalName}, <Ago at={s.createdAt} />
          </span>
          <span className="wrap-anywhere">{s.reason}</span>
        </span>
      }
      actions={
        s.state !== "ended" && (
          <>
            {!mine && (
              <Button why={why("shell_sessions.join")} onClick={() => as(mode === "join" ? undefined : "join")}>
                {mode === "join" ? "Only watch" : "Join it"}
              </Button>
            )}
            <Button kind="danger" why={mine ? "" : why("shell_sessions.kill")} onClick={() => setKilling(true)}>
              End it
            </Button>
          </>
        )
      }
    >
      {s.state === "ended" ? <Player session={s} /> : <LiveTerminal key={mode} session={s} mode={mode} changed={() => void queries.invalidateQueries({ queryKey: ["shells"] })} />}
      <About s={s} />
      {killing && <Kill s={s} close={() => setKilling(false)} />}
    </Page>
  );
}

function About({ s }: { s: ShellSession }) {
  return (
    <Card title="About it">
      <Facts
        of={[
          ["Host", <Link key="h" to={paths.host(s.hostId) as never} className="text-accent hover:underline">{s.hostName}</Link>],
          ["Opened by", `${s.principalName}${s.address ? `, from ${s.address}` : ""}`],
          ["Reason", s.reason],
          ["Ticket", s.ticket],
          ["Allowed by", s.rule && <span key="r" className="font-mono text-[12.5px]">{s.rule}</span>],
          ["Began", s.startedAt && <Ago key="b" at={s.startedAt} />],
          ["Ended", s.endedAt && <Ago key="e" at={s.endedAt} />],
          ["Ended by", s.state === "ended" ? s.endReason || `the shell itself, with status ${s.exitStatus}` : undefined],
          ["Length", s.length && formatDuration(seconds(s.length) ?? 0)],
          ["Recording", s.verdict && <State key="v" of={s.verdict} />],
          ["Its root here", s.root && <span key="c" className="font-mono text-[12px] break-all">{s.root}</span>],
          ["Its root on the host", s.hostRoot && <span key="o" className="font-mono text-[12px] break-all">{s.hostRoot}</span>],
        ]}
      />
      <div className="mt-4">
        <Command label={s.state === "ended" ? "The same as a command" : "In a terminal of your own"} text={s.state === "ended" ? `loopback session replay ${s.id}` : `loopback session watch ${s.id}`} />
      </div>
    </Card>
  );
}

function Kill({ s, close }: { s: ShellSession; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [comment, setComment] = useState("");
  const request = { session: s.id, comment };
  const submit = () =>
    void act.run(async () => {
      await api.shells.killShellSession(request);
      await queries.invalidateQueries({ queryKey: ["shells"] });
      close();
    });
  return (
    <FormDialog title={`End the shell on ${s.hostName}?`} close={close} cancel="Let it go on" act={act} kind="danger" label="End it" submit={submit} same={{ cli: command(`session kill ${s.id}`, [["comment", comment]]), api: call(ShellService.method.killShellSession, request) }}>
      <p>The shell ends, and all that was started from it. Its recording stays.</p>
      <Field label="What those in it are told">{(at) => <Input {...at} value={comment} onChange={(e) => setComment(e.target.value)} />}</Field>
    </FormDialog>
  );
}
