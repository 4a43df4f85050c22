// Named sets of permissions.
import { useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { access as api } from "../../api/access";
import { RoleService, type Role } from "../../api/gen/loopback/v1/policy_pb";
import { command } from "../../api/shell";
import { usePages, useShown } from "../../app/list";
import { access } from "../../app/pages";
import { paths } from "../../app/paths";
import { useSession } from "../../app/session";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Dialog, Empty, Facts, Page, Problem, Waiting } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { Table, type Column } from "../../ui/table";
import { BelongsTo } from "./principals";
import { RoleForm, usePermissions } from "./roleform";

export function Roles() {
  const { why } = useSession();
  const search = useSearch({ strict: false }) as { open?: string };
  const navigate = useNavigate();
  const [making, setMaking] = useState(false);
  const [changing, setChanging] = useState(false); // the role that is shown, as it is now
  const zero = useTierZero();
  const set = (open?: string) => void navigate({ to: ".", search: ((old: object) => ({ ...old, open })) as never, replace: true });
  const list = usePages(["roles", "list"], (token) => api.roles.listRoles({ page: { size: 200, token } }));
  const columns: Column<Role>[] = [
    {
      key: "name",
      head: "Name",
      width: "minmax(9rem,1fr)",
      cell: (r) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => set(r.id)} title={r.name}>
          {r.name}
        </button>
      ),
    },
    { key: "kind", head: "Kind", width: "6rem", cell: (r) => <span className="text-soft">{r.builtIn ? "built in" : "own"}</span> },
    { key: "zero", head: "Tier 0", width: "5rem", narrow: "hide", cell: (r) => (r.permissions.some((p) => zero.has(p)) ? <TierZero /> : null) },
    { key: "permissions", head: "Permissions", width: "minmax(10rem,3fr)", narrow: "hide", cell: (r) => <span className="font-mono text-[12.5px]" title={r.permissions.join("\n")}>{r.permissions.join(" ")}</span> },
    { key: "of", head: "Belongs to", width: "minmax(8rem,1fr)", narrow: "hide", cell: (r) => <BelongsTo to={r.scope} /> },
    { key: "description", head: "For", width: "minmax(9rem,2fr)", cell: (r) => <span className="text-soft" title={r.description}>{r.description}</span> },
  ];
  const shown = useShown(list.rows, search.open, "roles", (role) => api.roles.getRole({ role }));
  return (
    <Page
      title="Roles"
      about="Named sets of permissions. Bindings give them to somebody."
      actions={
        <Button kind="primary" why={why("roles.create")} onClick={() => setMaking(true)}>
          New role
        </Button>
      }
    >
      <Tabs of={access} />
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>{list.pending ? <Waiting /> : <Table label="roles" columns={columns} rows={list.rows} id={(r) => r.id} more={list.more} open={(r) => set(r.id)} empty={<Empty title="No role is yours to see" />} />}</Card>
      {making && <RoleForm close={() => setMaking(false)} />}
      {shown && changing && <RoleForm key={shown.id} role={shown} close={() => setChanging(false)} />}
      {shown && !changing && <One key={shown.id} r={shown} close={() => set()} change={() => setChanging(true)} />}
    </Page>
  );
}

function useTierZero(): ReadonlySet<string> {
  const all = usePermissions();
  return new Set(all.filter((p) => p.tierZero).map((p) => p.name));
}

export function TierZero() {
  return (
    <span className="rounded border border-bad/50 px-1 text-[11px] font-medium text-bad" title="a way round all others: no wildcard matches it, and a binding that gives it ends within 24 hours">
      tier 0
    </span>
  );
}

function One({ r, close, change }: { r: Role; close: () => void; change: () => void }) {
  const { why } = useSession();
  const queries = useQueryClient();
  const act = useAct();
  const zero = useTierZero();
  const all = usePermissions();
  const [deleting, setDeleting] = useState(false);
  if (deleting) {
    const request = { role: r.id };
    return (
      <FormDialog
        title={`Delete ${r.name}?`}
        close={close}
        back={() => setDeleting(false)}
        act={act}
        kind="danger"
        label="Delete"
        submit={() =>
          void act.run(() => api.roles.deleteRole(request)).then((done) => {
            if (!done) return;
            void queries.invalidateQueries({ queryKey: ["roles"] });
            close();
          })
        }
        same={{ cli: command(`role delete ${r.id}`), api: call(RoleService.method.deleteRole, request) }}
      >
        <p>Only a role that no binding names can be deleted, so that nobody loses anything by it.</p>
      </FormDialog>
    );
  }
  const fixed = r.builtIn ? "it is built in, and stays as it is" : "";
  return (
    <Dialog title={r.name} open close={close}>
      <Facts
        of={[
          ["For", r.description],
          ["Kind", r.builtIn ? "built in" : "own"],
          ["Belongs to", <BelongsTo key="o" to={r.scope} />],
          ["Made", !r.builtIn && <Ago key="c" at={r.createdAt} />],
          ["Id", <span key="i" className="font-mono text-[12.5px]">{r.id}</span>],
          ["Given by", <Link key="b" to={paths.bindings} search={{ role: r.id } as never} className="text-accent hover:underline">these bindings</Link>],
        ]}
      />
      <ul aria-label="permissions" tabIndex={0} className="max-h-72 divide-y divide-line/70 overflow-auto rounded-md border border-line">
        {r.permissions.map((p) => (
          <li key={p} className="px-3 py-1.5">
            <span className="flex items-center gap-2">
              <code className="font-mono text-[12.5px] wrap-anywhere">{p}</code>
              {zero.has(p) && <TierZero />}
            </span>
            <span className="text-[12px] text-soft">{p === "*" ? "everything but tier 0" : p.endsWith(".*") ? `everything of ${p.slice(0, -2).replaceAll("_", " ")} but tier 0` : all.find((x) => x.name === p)?.allows}</span>
          </li>
        ))}
      </ul>
      <div className="flex justify-end gap-2">
        <Button onClick={close}>Close</Button>
        <Button why={fixed || why("roles.update")} onClick={change}>
          Change…
        </Button>
        <Button kind="danger" why={fixed || why("roles.delete")} onClick={() => setDeleting(true)}>
          Delete…
        </Button>
      </div>
    </Dialog>
  );
}
