// One command on many hosts, as it happens: what is the same is shown once, with the hosts that said it.
import { Link, useParams } from "@tanstack/react-router";
import { useEffect, useMemo, useState } from "react";
import { api } from "../api/client";
import type { Exec, ExecHost } from "../api/gen/loopback/v1/exec_pb";
import { paths } from "../app/paths";
import { useSession } from "../app/session";
import { Ago, Button, Card, Command, Facts, Input, Page, Problem, State, Waiting, cx } from "../ui/basics";
import { Tally } from "./commands";
import { Again, needs } from "./commands/again";
import { line } from "./words";

const shownOf = 64 << 10; // bytes of a host's output that the page holds; all of it is in the command line
const over = new Set(["succeeded", "failed", "refused", "unreachable", "timed_out", "cancelled", "skipped", "indeterminate"]);

interface Result {
  host: ExecHost;
  out: string;
  err: string;
}

/** What comes of a run, followed until it has ended. */
function useRun(id: string) {
  const [exec, setExec] = useState<Exec>();
  const [results, setResults] = useState<ReadonlyMap<string, Result>>(new Map());
  const [error, setError] = useState<unknown>();
  const [again, setAgain] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    const kept = new Map<string, Result & { decode: Record<string, TextDecoder> }>();
    let dirty = false;
    const flush = setInterval(() => {
      if (!dirty) return;
      dirty = false;
      setResults(new Map(kept));
    }, 100);
    const of = (host: string) => {
      let r = kept.get(host);
      if (!r) {
        r = { host: { hostId: host, host, state: "waiting" } as ExecHost, out: "", err: "", decode: { stdout: new TextDecoder(), stderr: new TextDecoder() } };
        kept.set(host, r);
      }
      return r;
    };
    async function follow() {
      for (let wait = 500; ; wait = Math.min(2 * wait, 5_000)) {
        kept.clear(); // it tells everything from the beginning
        try {
          for await (const e of api.execs.watchExec({ exec: id, follow: true }, { signal: stop.signal })) {
            setError(undefined);
            wait = 500;
            if (e.body.case === "exec") setExec(e.body.value);
            else if (e.body.case === "host") kept.set(e.body.value.hostId, { ...of(e.body.value.hostId), host: e.body.value });
            else if (e.body.case === "output") {
              const r = of(e.body.value.hostId);
              const text = r.decode[e.body.value.channel]?.decode(e.body.value.data, { stream: true }) ?? "";
              if (e.body.value.channel === "stderr") kept.set(e.body.value.hostId, { ...r, err: (r.err + text).slice(0, shownOf) });
              else kept.set(e.body.value.hostId, { ...r, out: (r.out + text).slice(0, shownOf) });
            }
            dirty = true;
          }
          dirty = false;
          setResults(new Map(kept));
          return;
        } catch (problem) {
          if (stop.signal.aborted) return;
          setError(problem);
        }
        await new Promise((resolve) => setTimeout(resolve, wait));
        if (stop.signal.aborted) return;
      }
    }
    void follow();
    return () => {
      clearInterval(flush);
      stop.abort();
    };
  }, [id, again]);
  return { exec, results, error, refetch: () => setAgain((n) => n + 1) };
}

interface Group {
  key: string;
  results: Result[];
}

function grouped(results: Iterable<Result>): Group[] {
  const groups = new Map<string, Group>();
  for (const r of results) {
    if (!over.has(r.host.state)) continue;
    const key = [r.host.state, r.host.exitCode ?? "", r.host.signal, r.host.error, r.out, r.err].join("\u0000");
    const g = groups.get(key);
    if (g) g.results.push(r);
    else groups.set(key, { key, results: [r] });
  }
  for (const g of groups.values()) g.results.sort((a, b) => a.host.host.localeCompare(b.host.host, undefined, { numeric: true }));
  const bad = (g: Group) => (g.results[0]!.host.state === "succeeded" ? 1 : 0);
  return [...groups.values()].sort((a, b) => bad(a) - bad(b) || b.results.length - a.results.length);
}

export function CommandPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { why } = useSession();
  const { exec, results, error, refetch } = useRun(id);
  const [wanted, setWanted] = useState("");
  const [refused, setRefused] = useState<unknown>();
  const [again, setAgain] = useState(false);
  const groups = useMemo(() => {
    const text = wanted.trim().toLowerCase();
    return grouped([...results.values()].filter((r) => !text || `${r.host.host}\n${r.out}\n${r.err}\n${r.host.error}`.toLowerCase().includes(text)));
  }, [results, wanted]);
  if (!exec) {
    return <Page title="Command">{error !== undefined ? <Problem error={error} retry={refetch} /> : <Waiting />}</Page>;
  }
  const total = Object.values(exec.hosts).reduce((n, v) => n + v, 0);
  // What hosts said one by one is ahead of what the run says of all; of whom nothing was heard yet, it waits.
  const tally: Record<string, number> = results.size < total ? { waiting: total - results.size } : {};
  for (const r of results.values()) tally[r.host.state] = (tally[r.host.state] ?? 0) + 1;
  const left = Object.entries(tally).reduce((n, [state, v]) => (over.has(state) ? n : n + v), 0);
  const unsuccessful = [...results.values()].map((r) => r.host).filter((h) => h.state !== "succeeded");
  const text = exec.command?.shell ? (exec.command.arguments[0] ?? "") : line(exec.command?.arguments ?? []);
  return (
    <Page
      title={text || exec.name}
      about={
        <span className="flex flex-wrap items-center gap-x-3 gap-y-1">
          <State of={exec.state} reason={exec.reason} />
          <span>
            begun <Ago at={exec.createdAt} /> as {exec.command?.user || "root"} on {total} {total === 1 ? "host" : "hosts"}
          </span>
          {exec.reason && <span className="text-warn">{exec.reason}</span>}
        </span>
      }
      actions={
        exec.state === "running" ? (
          <Button kind="danger" why={why("exec.cancel")} onClick={() => void api.execs.cancelExec({ exec: id }).catch(setRefused)}>
            Cancel it
          </Button>
        ) : (
          unsuccessful.length > 0 && (
            <Button why={why(needs(exec)) || (exec.stdinBytes > 0n ? "it was given standard input, which nobody is shown: loopback exec --rerun gives it again" : "")} onClick={() => setAgain(true)}>
              Run again where it failed
            </Button>
          )
        )
      }
    >
      {error !== undefined && <Problem error={error} />}
      {refused !== undefined && <Problem error={refused} />}
      <div className="flex flex-wrap items-center gap-x-4 gap-y-2">
        <div className="min-w-40 flex-1">
          <div role="progressbar" aria-label="hosts that are done" aria-valuemin={0} aria-valuemax={total} aria-valuenow={total - left} className="h-2 overflow-hidden rounded-full bg-sunk">
            <div className="h-full bg-accent transition-[width]" style={{ width: `${total ? (100 * (total - left)) / total : 0}%` }} />
          </div>
        </div>
        <Tally of={tally} />
        <Input type="search" aria-label="search in what they wrote" placeholder="Search hosts and output…" value={wanted} onChange={(e) => setWanted(e.target.value)} className="w-64!" />
      </div>
      {groups.map((g) => (
        <GroupCard key={g.key} group={g} />
      ))}
      {groups.length === 0 && <Card>{left > 0 && !wanted ? <p className="text-soft">No host is done yet.</p> : <p className="text-soft">Nothing of that kind.</p>}</Card>}
      <Card title="About it">
        <Facts
          of={[
            ["Is", exec.as && <As key="as" of={exec} />],
            ["Id", <span key="i" className="font-mono text-[12.5px]">{exec.id}</span>],
            ["Started by", exec.actorName ? <span key="a" title={exec.actor}>{exec.actorName}</span> : <span key="a" className="font-mono text-[12.5px]">{exec.actor}</span>],
            ["Why", exec.statedReason],
            ["Ticket", exec.ticket],
            ["At a time on", exec.concurrency ? `${exec.concurrency} hosts` : undefined],
            ["Stops after", exec.maxFailures ? `${exec.maxFailures} failures` : undefined],
            ["First on", exec.canary ? `${exec.canary} hosts` : undefined],
            ["Ended", exec.endedAt && <Ago key="e" at={exec.endedAt} />],
          ]}
        />
        <div className="mt-4">
          <Command label="All of it in a terminal" text={`loopback exec show ${exec.id}`} />
        </div>
      </Card>
      {again && <Again run={exec} hosts={unsuccessful} close={() => setAgain(false)} />}
    </Page>
  );
}

/** The check or the saved command that a run is. */
function As({ of }: { of: Exec }) {
  const to = of.check ? paths.check(of.check) : of.savedCommand && paths.savedCommand(of.savedCommand);
  if (!to) return <>{of.as}</>;
  return (
    <Link to={to as never} className="text-accent hover:underline">
      {of.as}
    </Link>
  );
}

function GroupCard({ group }: { group: Group }) {
  const [all, setAll] = useState(false);
  const first = group.results[0]!;
  const n = group.results.length;
  const names = all ? group.results : group.results.slice(0, 8);
  const code = first.host.exitCode;
  return (
    <section aria-label={`${n} ${n === 1 ? "host" : "hosts"}, ${first.host.state}`} className="min-w-0 overflow-hidden rounded-lg border border-line bg-card">
      <header className="flex flex-wrap items-center gap-x-3 gap-y-1 border-b border-line px-4 py-2">
        <State of={first.host.state} />
        {code !== undefined && code !== 0 && <span className="text-soft">exit code {code}</span>}
        {first.host.signal && <span className="text-soft">by {first.host.signal}</span>}
        <span className="flex min-w-0 flex-1 flex-wrap gap-x-2 gap-y-1">
          {names.map((r) => (
            <Link key={r.host.hostId} to={paths.host(r.host.hostId) as never} className="font-medium leading-6 hover:underline">
              {r.host.host}
            </Link>
          ))}
          {n > names.length && (
            <button type="button" className="leading-6 text-accent hover:underline" onClick={() => setAll(true)}>
              and {n - names.length} more
            </button>
          )}
        </span>
      </header>
      <div className="flex flex-col gap-2 p-3">
        {first.host.error && (
          <p className="text-bad">
            {first.host.error}
            {first.host.hint && <span className="block text-soft">{first.host.hint}</span>}
          </p>
        )}
        {first.out && <Written text={first.out} label="standard output" />}
        {first.err && <Written text={first.err} label="standard error" bad />}
        {!first.out && !first.err && !first.host.error && <p className="text-soft">It wrote nothing.</p>}
        {first.host.droppedBytes > 0n && <p className="text-[12px] text-warn">{first.host.droppedBytes.toString()} bytes more were not kept.</p>}
      </div>
    </section>
  );
}

function Written({ text, label, bad }: { text: string; label: string; bad?: boolean }) {
  return (
    <pre tabIndex={0} aria-label={label} className={cx("max-h-96 overflow-auto rounded-md border border-line bg-sunk p-2 font-mono text-[12.5px] whitespace-pre-wrap wrap-anywhere", bad && "border-l-2 border-l-bad")}>
      {text}
    </pre>
  );
}
