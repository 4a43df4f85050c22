// What wants this person: requests that they can decide, what they can answer for, copied hosts, work that failed, receivers that
// refuse. It is counted in the frame, listed on demand, and said once to screen readers when something comes. What was seen is this
// browser's.
import { useQuery } from "@tanstack/react-query";
import { timestampDate, type Timestamp } from "@bufbuild/protobuf/wkt";
import { Link } from "@tanstack/react-router";
import { useEffect, useMemo, useRef, useState } from "react";
import { api } from "../api/client";
import { grants } from "../api/grants";
import { sinks } from "../api/sinks";
import { Ago, Button, Dialog, State, useNow } from "../ui/basics";
import { paths } from "./paths";
import { useSession } from "./session";

interface Wanted {
  key: string; // stays the same while it is the same thing
  kind?: string;
  state: string;
  what: string;
  about: string;
  at: Timestamp | undefined;
  to: string;
  search?: Record<string, string>;
}

const recent = 24 * 3600 * 1000; // failed work older than this is history
const few = 20;

/** Requests that are this person's to decide: others' that they have not approved yet. Only people approve. */
export function useWaiting() {
  const { may, who } = useSession();
  const me = who.principalId;
  const asked = useQuery({ queryKey: ["grants", "waiting"], enabled: may("grants.approve") && me.startsWith("usr_"), queryFn: () => grants.listGrants({ states: ["pending"], page: { size: 1000 } }), staleTime: 60_000 });
  return useMemo(() => asked.data?.items.filter((g) => g.subjectId !== me && !g.approvals.some((a) => a.userId === me)) ?? [], [asked.data, me]);
}

/** How many requests wait for this person, for the navigation. */
export function Count() {
  const n = useWaiting().length;
  if (n === 0) return null;
  return (
    <span className="rounded-full bg-odd px-1.5 text-[11px] leading-5 font-semibold text-card tabular-nums">
      {n > 99 ? "99+" : n}
      <span className="sr-only"> to decide</span>
    </span>
  );
}

/** Reviews that are still to be answered: of what others hold, and of shells that others had. Only people answer. */
function useReviews(): Wanted[] {
  const { may, who } = useSession();
  const me = who.principalId;
  const person = me.startsWith("usr_");
  // What the calls are of comes when it is asked for: few people answer for others, and everybody waits for the first page.
  const held = useQuery({ queryKey: ["reviews", "attention"], enabled: person && may("access_reviews.answer"), queryFn: async () => (await import("../api/reviews")).reviews.listAccessReviews({ states: ["open"], page: { size: few } }), staleTime: 60_000 });
  const had = useQuery({ queryKey: ["session reviews", "attention"], enabled: person && may("session_reviews.answer"), queryFn: async () => (await import("../api/sessionreviews")).sessionReviews.listSessionReviews({ states: ["open"], page: { size: few } }), staleTime: 60_000 });
  return useMemo(() => {
    const out: Wanted[] = [];
    for (const r of held.data?.items ?? []) {
      if (r.open > 0) out.push({ key: r.id, kind: "review", state: r.state, what: `${r.open.toLocaleString()} of ${r.name} ${r.open === 1 ? "is" : "are"} to be answered for`, about: `unanswered are ${r.revokeUnanswered ? "revoked" : "left"} in the end`, at: r.createdAt, to: paths.review(r.id) });
    }
    for (const r of had.data?.items ?? []) {
      if (r.principalId !== me) out.push({ key: r.id, kind: "session-review", state: r.overdue ? "overdue" : r.state, what: `The shell of ${r.principalName} on ${r.hostName} is to be looked at`, about: r.reason, at: r.endedAt, to: paths.shellReviews, search: { open: r.id } });
    }
    return out;
  }, [held.data, had.data, me]);
}

function useWanted(): Wanted[] {
  const { may } = useSession();
  const now = useNow();
  const waiting = useWaiting();
  const reviews = useReviews();
  const copied = useQuery({ queryKey: ["hosts", "count", "copied"], enabled: may("hosts.split") || may("hosts.drop"), queryFn: () => api.hosts.listHosts({ query: "state=quarantined and reason~cloned", page: { size: few } }), staleTime: 60_000 });
  const failed = useQuery({ queryKey: ["operations", "failed"], enabled: may("operations.read"), queryFn: () => api.operations.listOperations({ states: ["failed"], page: { size: few } }), staleTime: 60_000 });
  const refusing = useQuery({ queryKey: ["sinks", "attention"], enabled: may("sinks.read"), queryFn: () => sinks.listSinks({ page: { size: 1000 } }), staleTime: 60_000 });
  return useMemo(() => {
    const out: Wanted[] = waiting.map((g) => ({ key: g.id, kind: "grant", state: g.state, what: `${g.subjectName} asks for ${g.roleName}`, about: g.reason, at: g.createdAt, to: paths.grants, search: { open: g.id } }));
    out.push(...reviews);
    for (const h of copied.data?.items ?? []) out.push({ key: `${h.id} copied`, state: h.state, what: `${h.name} was copied`, about: "say which machine is the host", at: h.since, to: paths.host(h.id) });
    for (const o of failed.data?.items ?? []) {
      if (o.endedAt && now - timestampDate(o.endedAt).getTime() < recent) out.push({ key: o.id, kind: "operation", state: o.state, what: `${o.name} failed`, about: o.error?.message ?? "", at: o.endedAt, to: paths.operations, search: { state: "failed" } });
    }
    for (const s of refusing.data?.items ?? []) {
      if (s.state === "failing") out.push({ key: `${s.id} failing`, state: s.state, what: `${s.name} does not take the audit log`, about: s.lastError, at: s.failedAt, to: paths.sinks, search: { open: s.id } });
      if (s.deadLetters > 0n) out.push({ key: `${s.id} ${s.deadLetters}`, state: "refused", what: `${s.name} refused ${s.deadLetters} ${s.deadLetters === 1n ? "entry" : "entries"}`, about: "they are set aside", at: s.failedAt, to: paths.sinks, search: { open: s.id } });
    }
    return out;
    // eslint-disable-next-line -- the clock only ages failed work: once a minute will do
  }, [waiting, reviews, copied.data, failed.data, refusing.data, Math.floor(now / 60_000)]);
}

const where = "loopback.seen";

function readSeen(): string[] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(where) ?? "[]");
    return Array.isArray(kept) ? kept.filter((k): k is string => typeof k === "string") : [];
  } catch {
    return [];
  }
}

/** small: where there is room for the number only, as in the head of a phone's page. */
export function Attention({ small }: { small?: boolean }) {
  const wanted = useWanted();
  const [seen, setSeen] = useState(readSeen);
  const [open, setOpen] = useState(false);
  const fresh = wanted.filter((w) => !seen.includes(w.key));
  const told = useRef(new Set<string>());
  const [said, setSaid] = useState("");
  useEffect(() => {
    const news = fresh.filter((w) => !told.current.has(w.key));
    if (news.length === 0) return;
    for (const w of news) told.current.add(w.key);
    setSaid(news.length === 1 ? `${news[0]!.what}. ${news[0]!.about}` : `${news.length} things want you.`);
  }, [fresh]);
  const many = wanted.length > 99 ? "99+" : String(wanted.length); // more is not told apart, and has no room
  const text = wanted.length === 1 ? "1 thing wants you" : `${many} things want you`;
  const keep = () => {
    const keys = wanted.map((w) => w.key);
    localStorage.setItem(where, JSON.stringify(keys));
    setSeen(keys);
  };
  return (
    <>
      <p role="status" className="sr-only">
        {said}
      </p>
      {wanted.length > 0 && (
        <button type="button" onClick={() => setOpen(true)} className="flex min-h-8 items-center gap-2 rounded-md border border-edge/50 bg-card px-2.5 text-left text-[13px] hover:border-edge">
          <span aria-hidden className={fresh.length > 0 ? "size-2 shrink-0 rounded-full bg-bad" : "size-2 shrink-0 rounded-full border border-edge"} />
          {small ? (
            <span className="tabular-nums">
              {many}
              <span className="sr-only">{text.replace(/^[\d+]+/, "")}</span>
            </span>
          ) : (
            <span className="flex-1">{text}</span>
          )}
        </button>
      )}
      <Dialog title="What wants you" open={open} close={() => setOpen(false)}>
        <ul className="max-h-96 divide-y divide-line/70 overflow-auto rounded-md border border-line">
          {wanted.map((w) => (
            <li key={w.key}>
              <Link to={w.to as never} search={(w.search ?? {}) as never} onClick={() => setOpen(false)} className="grid grid-cols-[1fr_auto] gap-x-3 px-3 py-2 hover:bg-sunk/70 focus-visible:-outline-offset-2">
                <span className="font-medium wrap-anywhere">{w.what}</span>
                <span className="text-right text-[12px] text-soft">
                  <Ago at={w.at} />
                </span>
                <span className="min-w-0 text-[12px] text-soft wrap-anywhere">{w.about}</span>
                <span className="text-right text-[12px]">
                  <State kind={w.kind} of={w.state} />
                </span>
              </Link>
            </li>
          ))}
        </ul>
        <div className="flex justify-end gap-2">
          <Button
            disabled={fresh.length === 0}
            onClick={() => {
              keep();
              setOpen(false);
            }}
          >
            I have seen these
          </Button>
          <Button onClick={() => setOpen(false)}>Close</Button>
        </div>
      </Dialog>
    </>
  );
}
