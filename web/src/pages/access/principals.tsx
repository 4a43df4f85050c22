// What people and service accounts have in common: a list, what each was given, and being let do nothing.
import { useQuery, type QueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { Scope } from "../../api/gen/loopback/v1/common_pb";
import { access as api } from "../../api/access";
import { paths } from "../../app/paths";
import { useSession } from "../../app/session";
import { spotOf, useSpots } from "../../app/spot";
import { Ago, Problem, State } from "../../ui/basics";
import type { Column } from "../../ui/table";
import { RoleName } from "./names";

export interface Principal {
  id: string;
  name: string;
  description: string;
  scope?: Scope;
  createdAt?: Timestamp;
  disabledAt?: Timestamp;
}

export const standing = (p: Principal) => (p.disabledAt ? "disabled" : "active");

export function BelongsTo({ to }: { to: Scope | undefined }) {
  const { called } = useSpots();
  return <span className="text-soft">{to?.organisationId ? called(spotOf(to)) : "the deployment"}</span>;
}

export function nameColumn<P extends Principal>(open: (p: P) => void): Column<P> {
  return {
    key: "name",
    head: "Name",
    width: "minmax(11rem,2fr)",
    cell: (p) => (
      <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => open(p)} title={p.name}>
        {p.name}
      </button>
    ),
  };
}

export function restColumns<P extends Principal>(): Column<P>[] {
  return [
    { key: "state", head: "State", width: "7.5rem", cell: (p) => <State of={standing(p)} /> },
    { key: "of", head: "Belongs to", width: "minmax(8rem,1fr)", narrow: "hide", cell: (p) => <BelongsTo to={p.scope} /> },
    { key: "description", head: "Who or what it is", width: "minmax(9rem,2fr)", narrow: "hide", cell: (p) => <span className="text-soft" title={p.description}>{p.description}</span> },
    { key: "created", head: "Made", width: "6.5rem", narrow: "hide", cell: (p) => <Ago at={p.createdAt} /> },
  ];
}

/** What somebody was given, by name, where. */
export function Given({ subject }: { subject: string }) {
  const { may } = useSession();
  const { called } = useSpots();
  const found = useQuery({ queryKey: ["bindings", "of", subject], enabled: may("bindings.read"), queryFn: () => api.bindings.listBindings({ subject, page: { size: 50 } }) });
  if (!may("bindings.read")) return <p className="text-soft">What was given is not yours to see: it needs bindings.read.</p>;
  if (found.error) return <Problem error={found.error} retry={() => void found.refetch()} />;
  const items = found.data?.items ?? [];
  return (
    <section aria-label="bindings" className="flex flex-col gap-1">
      <h3 className="text-[12px] text-soft">Bindings</h3>
      {found.data && items.length === 0 ? (
        <p>None of its own.</p>
      ) : (
        <ul className="max-h-44 divide-y divide-line/70 overflow-auto rounded-md border border-line">
          {items.map((b) => (
            <li key={b.id}>
              <Link to={paths.bindings} search={{ subject, open: b.id } as never} className="flex items-center gap-2 px-3 py-1.5 hover:bg-sunk/70 focus-visible:-outline-offset-2">
                <span className="min-w-0 flex-1 truncate">
                  {b.effect === "deny" && <span className="font-medium text-bad">denied: </span>}
                  <RoleName id={b.roleId} /> <span className="text-soft">{called(spotOf(b.scope))}</span> {b.hosts && <span className="font-mono text-[12px] text-soft">{b.hosts}</span>}
                </span>
                {b.notAfter && (
                  <span className="text-[12px] text-soft">
                    <Ago at={b.notAfter} />
                  </span>
                )}
              </Link>
            </li>
          ))}
        </ul>
      )}
      {found.data?.nextPageToken && (
        <Link to={paths.bindings} search={{ subject } as never} className="text-accent hover:underline">
          all of them
        </Link>
      )}
    </section>
  );
}

/** Where to ask what somebody may do. */
export function WhatCan({ kind, name }: { kind: "user" | "service_account"; name: string }) {
  return (
    <Link to={paths.questions} search={{ ask: "what", kind, who: name } as never} className="text-accent hover:underline">
      What may {name} do?
    </Link>
  );
}

/** After an act on somebody: what shows them, and what they were given. */
export function refresh(queries: QueryClient): void {
  void queries.invalidateQueries({ predicate: (q) => ["users", "service accounts", "groups", "bindings", "questions"].includes(String(q.queryKey[0])) });
}
