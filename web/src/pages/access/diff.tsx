// Who gains and loses what by a change that was not made yet, in as few lines as say all of it.
import { useQuery } from "@tanstack/react-query";
import { create, toJsonString, type MessageInitShape } from "@bufbuild/protobuf";
import { access } from "../../api/access";
import { troubleOf } from "../../api/client";
import { DiffAccessRequestSchema, type AccessDifference } from "../../api/gen/loopback/v1/policy_pb";
import { Problem, Waiting } from "../../ui/basics";
import { kindWords, type SubjectKind } from "./names";

interface Line {
  key: string;
  of: AccessDifference;
  permissions: string[];
}

const most = 100; // lines; the rest is counted

/** Permissions that change alike for the same somebody are one line. */
function lines(items: AccessDifference[]): Line[] {
  const out = new Map<string, Line>();
  for (const d of items) {
    const key = [d.subjectId, d.everythingBefore, d.everythingAfter, d.gained, d.lost, d.hostsAfter].join(" ");
    const line = out.get(key) ?? { key, of: d, permissions: [] };
    line.permissions.push(d.permission);
    out.set(key, line);
  }
  return [...out.values()].sort((a, b) => Number(loses(b.of)) - Number(loses(a.of)) || a.of.subject.localeCompare(b.of.subject));
}

const loses = (d: AccessDifference) => d.lost > 0n || (d.everythingBefore && !d.everythingAfter);

function hosts(n: bigint): string {
  return n === 1n ? "1 host" : `${n.toLocaleString()} hosts`;
}

function reach(d: AccessDifference, all: bigint): string {
  const parts: string[] = [];
  if (d.everythingAfter && !d.everythingBefore) parts.push("on everything here");
  else if (d.everythingBefore && !d.everythingAfter) parts.push("no longer on everything here");
  if (d.gained > 0n) parts.push(`on ${hosts(d.gained)} more`);
  if (d.lost > 0n) parts.push(`on ${hosts(d.lost)} no longer`);
  return `${parts.join(", ")}${d.gained > 0n || d.lost > 0n ? ` (then ${d.hostsAfter.toLocaleString()} of ${all.toLocaleString()})` : ""}`;
}

export function Diff({ request, where }: { request: MessageInitShape<typeof DiffAccessRequestSchema>; where: string }) {
  const key = toJsonString(DiffAccessRequestSchema, create(DiffAccessRequestSchema, request));
  const found = useQuery({ queryKey: ["questions", "diff", key], queryFn: () => access.questions.diffAccess(request), retry: false });
  if (found.isPending) return <Waiting rows={3} />;
  if (found.error) {
    const t = troubleOf(found.error);
    return (
      <div className="flex flex-col gap-2">
        <Problem error={found.error} retry={() => void found.refetch()} />
        {t.code === "permission_denied" && <p className="text-soft">What this changes is not yours to see. It can be done all the same, if you may.</p>}
      </div>
    );
  }
  const all = lines(found.data.items);
  const [gain, lose] = [false, true].map((l) => new Set(found.data.items.filter((d) => loses(d) === l).map((d) => d.subjectId)).size);
  const some = (n: number | undefined) => (n ? n.toLocaleString() : "nobody");
  return (
    <section aria-label="what changes" className="flex min-w-0 flex-col gap-2">
      <p role="status" className="font-medium">
        {all.length === 0 ? `Nobody gains or loses anything ${where}.` : `What changes ${where}: ${some(gain)} ${gain && gain > 1 ? "gain" : "gains"}, ${some(lose)} ${lose && lose > 1 ? "lose" : "loses"}.`}
      </p>
      {all.length > 0 && (
        <ul className="max-h-72 divide-y divide-line/70 overflow-auto rounded-md border border-line" tabIndex={0} aria-label="who gains and loses what">
          {all.slice(0, most).map((l) => (
            <li key={l.key} className="px-3 py-2">
              <p className="wrap-anywhere">
                <span aria-hidden className={loses(l.of) ? "mr-1.5 font-bold text-bad" : "mr-1.5 font-bold text-good"}>
                  {loses(l.of) ? "−" : "+"}
                </span>
                <span className="font-medium">{l.of.subject}</span> {l.of.subjectKind !== "user" && <span className="text-soft">{`${kindWords[l.of.subjectKind as SubjectKind] ?? l.of.subjectKind} `}</span>}
                <span className={loses(l.of) ? "text-bad" : "text-good"}>{loses(l.of) ? "loses" : "gains"}</span> {l.permissions.length === 1 ? <code className="font-mono text-[12.5px]">{l.permissions[0]}</code> : `${l.permissions.length} permissions`} <span className="text-soft">{reach(l.of, found.data.hosts)}</span>
              </p>
              {l.permissions.length > 1 && (
                <details>
                  <summary className="text-[12px] text-soft">which</summary>
                  <p className="font-mono text-[12px] wrap-anywhere">{l.permissions.join(" ")}</p>
                </details>
              )}
            </li>
          ))}
          {all.length > most && <li className="px-3 py-2 text-soft">and {(all.length - most).toLocaleString()} more</li>}
        </ul>
      )}
    </section>
  );
}
