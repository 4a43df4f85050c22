// Names for the ids that bindings and grants hold. The first thousand of each are read at once, the others one by one as
// they are shown.
import { useQuery } from "@tanstack/react-query";
import { access } from "../../api/access";
import { grantPolicies } from "../../api/grants";
import type { Role } from "../../api/gen/loopback/v1/policy_pb";
import { useSession } from "../../app/session";
import { cx } from "../../ui/basics";

export type SubjectKind = "user" | "group" | "service_account";

export const kindWords: Record<SubjectKind, string> = { user: "user", group: "group", service_account: "service account" };

interface Named {
  id: string;
  name: string;
}

type Kind = SubjectKind | "role" | "grant_policy";

const lists: Record<Kind, { key: string; needs: string; all: () => Promise<{ items: Named[] }>; one: (id: string) => Promise<Named> }> = {
  user: { key: "users", needs: "users.read", all: () => access.users.listUsers({ page: { size: 1000 } }), one: (user) => access.users.getUser({ user }) },
  group: { key: "groups", needs: "groups.read", all: () => access.groups.listGroups({ page: { size: 1000 } }), one: (group) => access.groups.getGroup({ group }) },
  service_account: { key: "service accounts", needs: "service_accounts.read", all: () => access.serviceAccounts.listServiceAccounts({ page: { size: 1000 } }), one: (serviceAccount) => access.serviceAccounts.getServiceAccount({ serviceAccount }) },
  grant_policy: { key: "grant policies", needs: "grant_policies.read", all: () => grantPolicies.listGrantPolicies({ page: { size: 1000 } }), one: (grantPolicy) => grantPolicies.getGrantPolicy({ grantPolicy }) },
  role: { key: "roles", needs: "roles.read", all: () => access.roles.listRoles({ page: { size: 1000 } }), one: (role) => access.roles.getRole({ role }) },
};

/** The first thousand, for choosing and for names. */
export function useAll(kind: SubjectKind | "role"): Named[] {
  const { may } = useSession();
  const l = lists[kind];
  return useQuery({ queryKey: [l.key, "all"], enabled: may(l.needs), queryFn: l.all, staleTime: 60_000 }).data?.items ?? [];
}

export function useRoles(): Role[] {
  return useAll("role") as Role[];
}

/** What an id is called; "…" while that is asked for, and the id where one may not know. */
export function useName(kind: Kind, id: string): string {
  const { may } = useSession();
  const l = lists[kind];
  const all = useQuery({ queryKey: [l.key, "all"], enabled: may(l.needs), queryFn: l.all, staleTime: 60_000 });
  const known = all.data?.items.find((x) => x.id === id);
  const one = useQuery({ queryKey: [l.key, "one", id], enabled: may(l.needs) && !all.isPending && !known && id !== "", queryFn: () => l.one(id), staleTime: 60_000, retry: false });
  // The built-in roles are called by their ids, also where one may read no roles.
  if (!known && (all.isLoading || one.isLoading)) return "…";
  return known?.name ?? one.data?.name ?? /^rol_(owner|admin|operator|member|auditor)$/.exec(id)?.[1] ?? id;
}

export function Subject({ kind, id }: { kind: string; id: string }) {
  const name = useName(kind as SubjectKind, id);
  return (
    <span title={`${kindWords[kind as SubjectKind] ?? kind} ${name} (${id})`}>
      <span className={cx(name === id && "font-mono text-[12.5px]")}>{name}</span> {kind !== "user" && <span className="text-[12px] text-soft">{kindWords[kind as SubjectKind] ?? kind}</span>}
    </span>
  );
}

/** Who did something, by their id: a user or a service account by name, whatever else as it is. */
export function Actor({ id }: { id: string }) {
  if (id.startsWith("usr_")) return <Subject kind="user" id={id} />;
  if (id.startsWith("sa_")) return <Subject kind="service_account" id={id} />;
  return <span className="font-mono text-[12.5px]">{id}</span>;
}

export function RoleName({ id }: { id: string }) {
  const name = useName("role", id);
  return (
    <span className="font-medium" title={`role ${name} (${id})`}>
      {name}
    </span>
  );
}
