// Answers about access, in words and with the bindings that they rest on.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { access } from "../../api/access";
import { parseDuration, toProto } from "../../api/duration";
import { AccessService, type AccessReach } from "../../api/gen/loopback/v1/policy_pb";
import { command } from "../../api/shell";
import { paths } from "../../app/paths";
import { atOf, spotOf, useSpots } from "../../app/spot";
import { Mark, Problem, Waiting, cx } from "../../ui/basics";
import { call, Same } from "../../ui/form";
import { lookOf } from "../../ui/states";
import { kindWords, type SubjectKind } from "./names";
import type { Ask } from "./questions";

export interface Asked {
  ask: Ask;
  kind: "user" | "service_account";
  who: string;
  permission: string;
  at: string; // a spot
  host: string;
  selector: string;
  address: string;
  mfa: string;
  ticket: string;
  time: string;
}

export function Answer({ q }: { q: Asked }) {
  return q.ask === "why" ? <Why q={q} /> : q.ask === "who" ? <WhoCan q={q} /> : <WhatCan q={q} />;
}

function who(q: Asked) {
  return q.kind === "user" ? { user: q.who } : { serviceAccount: q.who };
}

/** The flags of a place, where empty says nothing: the whole deployment. */
function useWhere(q: Asked): [string, string | boolean][] {
  const { flag } = useSpots();
  return [...(q.at ? [flag(q.at)] : []), ["host", q.host], ["selector", q.selector]];
}

const subjectFlag = (q: Asked): [string, string] => [q.kind.replace("_", "-"), q.who];

function moment(text: string): Date | undefined {
  const span = parseDuration(text);
  const at = span !== undefined ? Date.now() + span * 1000 : Date.parse(text);
  return text === "" || Number.isNaN(at) ? undefined : new Date(at);
}

function Binding({ id }: { id: string }) {
  return (
    <Link to={paths.bindings} search={{ open: id } as never} className="font-mono text-[12px] text-accent hover:underline">
      {id}
    </Link>
  );
}

function Why({ q }: { q: Asked }) {
  const { called } = useSpots();
  const where = useWhere(q);
  const time = moment(q.time);
  const mfa = parseDuration(q.mfa);
  const request = { ...who(q), permission: q.permission, at: { ...atOf(q.at), host: q.host }, address: q.address, ticket: q.ticket, mfaAge: mfa === undefined ? undefined : toProto(mfa), time: time && timestampFromDate(time) };
  const found = useQuery({ queryKey: ["questions", "why", q], queryFn: () => access.questions.explainAccess(request), retry: false });
  const same = <Same cli={command(`access explain ${q.permission}`, [subjectFlag(q), ...where, ["from-address", q.address], ["mfa-age", q.mfa], ["ticket", q.ticket], ["at", q.time]])} api={call(AccessService.method.explainAccess, request)} />;
  if (found.isPending) return <Waiting rows={3} />;
  if (found.error) return <Problem error={found.error} retry={() => void found.refetch()} />;
  const a = found.data;
  const state = a.allowed ? "allowed" : "denied";
  return (
    <div className="flex flex-col gap-4">
      <p role="status" className={cx("flex items-start gap-2 text-[15px] font-medium", lookOf(state).tone)}>
        <span className="mt-1.5">
          <Mark state={state} />
        </span>
        <span className="wrap-anywhere">{a.summary}</span>
      </p>
      {a.reasons.length === 0 ? (
        <p>No binding is about {q.who} and {q.permission}. One that gives a role with it would let them.</p>
      ) : (
        <section aria-label="bindings that are about it" className="overflow-auto rounded-md border border-line" tabIndex={0}>
          <table className="w-full text-left text-[13px]">
            <thead className="text-[12px] text-soft">
              <tr>
                {["Binding", "Effect", "Role", "Where", "Hosts", "Applies"].map((h) => (
                  <th key={h} className="px-3 py-1.5 font-normal">
                    {h}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {a.reasons.map((r) => (
                <tr key={r.bindingId} className={cx("border-t border-line/70", r.bindingId === a.bindingId && "bg-accent-wash")}>
                  <td className="px-3 py-1.5">
                    <Binding id={r.bindingId} />
                    {r.bindingId === a.bindingId && <span className="ml-1.5 text-[12px] font-medium">decided</span>}
                  </td>
                  <td className={cx("px-3 py-1.5", r.effect === "deny" && "text-bad")}>{r.effect === "deny" ? "denies" : "gives"}</td>
                  <td className="px-3 py-1.5">{r.role}</td>
                  <td className="px-3 py-1.5">{called(spotOf(r.scope))}</td>
                  <td className="px-3 py-1.5 font-mono text-[12px]">{r.hosts}</td>
                  <td className="min-w-44 px-3 py-1.5">{r.applies ? "yes" : `no: ${r.why}`}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
      <p className="text-[12px] text-soft">By version {a.snapshot.toLocaleString()} of the rules.</p>
      {same}
    </div>
  );
}

function WhoCan({ q }: { q: Asked }) {
  const where = useWhere(q);
  const request = { permission: q.permission, at: { ...atOf(q.at), host: q.host, selector: q.selector } };
  const found = useQuery({ queryKey: ["questions", "who", q], queryFn: () => access.questions.whoCan(request), retry: false });
  if (found.isPending) return <Waiting rows={3} />;
  if (found.error) return <Problem error={found.error} retry={() => void found.refetch()} />;
  const n = found.data.items.length;
  return (
    <div className="flex flex-col gap-4">
      <p role="status" className="text-[15px] font-medium">
        {n === 0 ? `Nobody holds ${q.permission} there.` : n === 1 ? `One holds ${q.permission} there.` : `${n.toLocaleString()} hold ${q.permission} there.`}
      </p>
      <Reaches items={found.data.items} hosts={found.data.hosts} first="Who" of={(r) => `${r.subject} ${r.subjectKind === "user" ? "" : (kindWords[r.subjectKind as SubjectKind] ?? "")}`} />
      <Same cli={command(`access who-can ${q.permission}`, where)} api={call(AccessService.method.whoCan, request)} />
    </div>
  );
}

function WhatCan({ q }: { q: Asked }) {
  const where = useWhere(q);
  const request = { ...who(q), at: { ...atOf(q.at), host: q.host, selector: q.selector } };
  const found = useQuery({ queryKey: ["questions", "what", q], queryFn: () => access.questions.whatCan(request), retry: false });
  if (found.isPending) return <Waiting rows={3} />;
  if (found.error) return <Problem error={found.error} retry={() => void found.refetch()} />;
  const n = found.data.items.length;
  return (
    <div className="flex flex-col gap-4">
      <p role="status" className="text-[15px] font-medium wrap-anywhere">
        {n === 0 ? `${q.who} may do nothing there.` : `${q.who} holds ${n === 1 ? "one permission" : `${n.toLocaleString()} permissions`} there.`}
      </p>
      <Reaches items={found.data.items} hosts={found.data.hosts} first="Permission" of={(r) => r.permission} />
      <Same cli={command("access what-can", [subjectFlag(q), ...where])} api={call(AccessService.method.whatCan, request)} />
    </div>
  );
}

const most = 500;

function Reaches({ items, hosts, first, of }: { items: AccessReach[]; hosts: bigint; first: string; of: (r: AccessReach) => string }) {
  if (items.length === 0) return null;
  return (
    <section aria-label="answer" tabIndex={0} className="max-h-[60dvh] overflow-auto rounded-md border border-line">
      <table className="w-full text-left text-[13px]">
        <thead className="text-[12px] text-soft">
          <tr>
            {[first, "Reaches", "By"].map((h) => (
              <th key={h} className="px-3 py-1.5 font-normal">
                {h}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {items.slice(0, most).map((r) => (
            <tr key={`${r.subjectId} ${r.permission}`} className="border-t border-line/70 align-top">
              <td className="px-3 py-1.5 wrap-anywhere">{of(r)}</td>
              <td className="px-3 py-1.5">
                {r.everything ? "everything there" : `${r.hosts.toLocaleString()} of ${hosts.toLocaleString()} hosts`}
                {r.conditional && <span className="text-warn">, under conditions</span>}
              </td>
              <td className="px-3 py-1.5">
                {r.bindingIds.slice(0, 3).map((b) => (
                  <span key={b} className="block">
                    <Binding id={b} />
                  </span>
                ))}
                {r.bindingIds.length > 3 && <span className="text-[12px] text-soft">and {r.bindingIds.length - 3} more</span>}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {items.length > most && <p className="px-3 py-2 text-soft">and {(items.length - most).toLocaleString()} more</p>}
    </section>
  );
}
