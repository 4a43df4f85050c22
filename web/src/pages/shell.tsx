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
import { Guests, InviteGuest } from "./shellguests";
import type { Mode } from "../terminal/connection";
import { Ago, Button, Card, Command, Facts, Field, Input, Page, Problem, State, Waiting } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";

export function ShellPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const search = useSearch({ strict: false }) as { as?: string };
  const navigate = useNavigate();
  const queries = useQueryClient();
  const { may, why, who } = useSession();
  const [killing, setKilling] = useState(false);
  const [keeping, setKeeping] = useState<Keeping>();
  const [inviting, setInviting] = useState(false);
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
        s.state === "ended" ? (
          !s.deletion && (
            <>
              <Button why={why("shell_sessions.hold")} onClick={() => setKeeping(s.hold ? "release" : "hold")}>
                {s.hold ? "End the hold" : "Hold it"}
              </Button>
              <Button kind="danger" why={s.hold ? "it is on hold" : why("shell_sessions.forget")} onClick={() => setKeeping("forget")}>
                Delete its recording
              </Button>
            </>
          )
        ) : (
          <>
            {!mine && (
              <Button why={why("shell_sessions.join")} onClick={() => as(mode === "join" ? undefined : "join")}>
                {mode === "join" ? "Only watch" : "Join it"}
              </Button>
            )}
            <Button why={why("shell_guests.invite") || why("shell_sessions.watch")} onClick={() => setInviting(true)}>
              Invite a guest…
            </Button>
            <Button kind="danger" why={mine ? "" : why("shell_sessions.kill")} onClick={() => setKilling(true)}>
              End it
            </Button>
          </>
        )
      }
    >
      {s.state === "ended" ? <Player session={s} /> : <LiveTerminal key={mode} session={s} mode={mode} changed={() => void queries.invalidateQueries({ queryKey: ["shells"] })} />}
      {may("shell_guests.read") && <Guests s={s} />}
      <About s={s} />
      {keeping && <Keep s={s} what={keeping} close={() => setKeeping(undefined)} />}
      {killing && <Kill s={s} close={() => setKilling(false)} />}
      {inviting && <InviteGuest s={s} close={() => setInviting(false)} />}
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
          ["It is kept", s.state === "ended" && !s.deletion && (s.keptUntil ? <span key="u">{s.hold ? "while it is on hold; else until " : "until "}<Ago at={s.keptUntil} /></span> : "for ever")],
          ["On hold", s.hold && <Word key="hold" by={s.hold.principalName} at={s.hold.at} reason={s.hold.reason} />],
          ["Deleted", s.deletion && <Word key="deleted" by={s.deletion.principalName || "the control plane"} at={s.deletion.at} reason={s.deletion.reason} />],
          ["Host’s copy", s.deletion && (s.deletion.hostAt ? <span key="copy">dropped, <Ago at={s.deletion.hostAt} /></span> : "dropped once the host is linked; nobody can read it")],
          ["Its root here", s.root && <span key="c" className="font-mono text-[12px] break-all">{s.root}</span>],
          ["Its root on the host", s.hostRoot && <span key="o" className="font-mono text-[12px] break-all">{s.hostRoot}</span>],
        ]}
      />
      <div className="mt-4">
        <Command label={s.state === "ended" ? "The same as a command" : "In a terminal of your own"} text={s.deletion ? `loopback session show ${s.id}` : s.state === "ended" ? `loopback session replay ${s.id}` : `loopback session watch ${s.id}`} />
      </div>
    </Card>
  );
}

function Word({ by, at, reason }: { by: string; at: ShellSession["createdAt"]; reason: string }) {
  return (
    <span>
      by {by}, <Ago at={at} />: {reason}
    </span>
  );
}

interface Said {
  session: string;
  reason: string;
}

const keep = {
  hold: {
    title: "Hold this recording?",
    label: "Hold it",
    about: "Nothing deletes it, however old it gets, until the hold ends: for a case at law, say.",
    run: (q: Said) => api.shells.holdShellSession(q),
    same: (q: Said) => call(ShellService.method.holdShellSession, q),
  },
  release: {
    title: "End the hold?",
    label: "End it",
    about: "The retention of its place decides again. What is older than that is deleted within minutes.",
    run: (q: Said) => api.shells.releaseShellSession(q),
    same: (q: Said) => call(ShellService.method.releaseShellSession, q),
  },
  forget: {
    title: "Delete this recording?",
    label: "Delete it",
    about: "It goes for good, here and on the host: for a secret that it shows, say. Who had the session, when and why stays, and so does the proof of what was recorded.",
    run: (q: Said) => api.shells.forgetShellSession(q),
    same: (q: Said) => call(ShellService.method.forgetShellSession, q),
  },
} as const;

type Keeping = keyof typeof keep;

function Keep({ s, what, close }: { s: ShellSession; what: Keeping; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [reason, setReason] = useState("");
  const how = keep[what];
  const request = { session: s.id, reason: reason.trim() };
  return (
    <FormDialog
      title={how.title}
      close={close}
      act={act}
      kind={what === "hold" ? "primary" : "danger"}
      label={how.label}
      disabled={what !== "release" && reason.trim() === ""}
      submit={() =>
        void act
          .run(() => how.run(request))
          .then((done) => {
            if (!done) return;
            void queries.invalidateQueries({ queryKey: ["shells"] });
            close();
          })
      }
      same={{ cli: command(`session ${what} ${s.id}`, [["reason", reason.trim()]]), api: how.same(request) }}
    >
      <p>{how.about}</p>
      <Field label="Why" hint="goes to the audit log, and is shown here">
        {(at) => <Input {...at} required={what !== "release"} maxLength={1000} value={reason} onChange={(e) => setReason(e.target.value)} />}
      </Field>
    </FormDialog>
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
