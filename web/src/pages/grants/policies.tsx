// What can be asked for, where and on which terms.
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { grantPolicies as api } from "../../api/grants";
import { formatDuration, seconds } from "../../api/duration";
import { GrantPolicyService, type GrantPolicy } from "../../api/gen/loopback/v1/grant_pb";
import { command } from "../../api/shell";
import { usePages, useShown } from "../../app/list";
import { grants } from "../../app/pages";
import { useSession } from "../../app/session";
import { spotOf, useSpots } from "../../app/spot";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Dialog, Empty, Facts, Page, Problem, Waiting } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { Table, type Column } from "../../ui/table";
import { Actor, RoleName, Subject } from "../access/names";
import { PolicyForm } from "./policyform";

const span = (d: GrantPolicy["wait"]) => (d ? formatDuration(seconds(d) ?? 0) : "");

export function Policies() {
  const { why } = useSession();
  const { called } = useSpots();
  const search = useSearch({ strict: false }) as { open?: string };
  const navigate = useNavigate();
  const [making, setMaking] = useState(false);
  const set = (open?: string) => void navigate({ to: ".", search: ((old: object) => ({ ...old, open })) as never, replace: true });
  const list = usePages(["grant policies", "list"], (token) => api.listGrantPolicies({ page: { size: 200, token } }));
  const columns: Column<GrantPolicy>[] = [
    {
      key: "name",
      head: "Name",
      width: "minmax(10rem,1fr)",
      cell: (p) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => set(p.id)} title={p.name}>
          {p.name}
        </button>
      ),
    },
    { key: "role", head: "Role", width: "minmax(7rem,1fr)", cell: (p) => (p.roleId ? <RoleName id={p.roleId} /> : <span className="text-soft">any</span>) },
    { key: "where", head: "Where", width: "minmax(8rem,1fr)", narrow: "hide", cell: (p) => <span title={called(spotOf(p.scope))}>{called(spotOf(p.scope))}</span> },
    { key: "approvals", head: "Approvals", width: "6rem", cell: (p) => <span className="tabular-nums">{p.approvals === 0 ? "none" : p.approvals}</span> },
    { key: "longest", head: "At most", width: "6rem", narrow: "hide", cell: (p) => span(p.maxDuration) },
    { key: "ticket", head: "Ticket", width: "minmax(6rem,1fr)", narrow: "hide", cell: (p) => <span className="font-mono text-[12.5px]" title={p.ticketPattern}>{p.ticketPattern}</span> },
    { key: "description", head: "For", width: "minmax(8rem,2fr)", narrow: "hide", cell: (p) => <span className="text-soft" title={p.description}>{p.description}</span> },
  ];
  const shown = useShown(list.rows, search.open, "grant policies", (grantPolicy) => api.getGrantPolicy({ grantPolicy }));
  return (
    <Page
      title="Grant policies"
      about="What can be asked for, where, and who has to approve. What was asked for keeps the terms of its moment."
      actions={
        <Button kind="primary" why={why("grant_policies.create")} onClick={() => setMaking(true)}>
          New policy
        </Button>
      }
    >
      <Tabs of={grants} />
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>{list.pending ? <Waiting /> : <Table label="grant policies" columns={columns} rows={list.rows} id={(p) => p.id} more={list.more} open={(p) => set(p.id)} empty={<Empty title="No policy yet">{<p>A policy offers a role at a place to whoever may ask there. Nobody offers what they do not hold.</p>}</Empty>} />}</Card>
      {making && <PolicyForm close={() => setMaking(false)} />}
      {shown && <One key={shown.id} p={shown} close={() => set()} />}
    </Page>
  );
}

function One({ p, close }: { p: GrantPolicy; close: () => void }) {
  const { why } = useSession();
  const { called } = useSpots();
  const queries = useQueryClient();
  const act = useAct();
  const [deleting, setDeleting] = useState(false);
  if (deleting) {
    const request = { grantPolicy: p.id };
    return (
      <FormDialog
        title={`Delete ${p.name}?`}
        close={close}
        back={() => setDeleting(false)}
        act={act}
        kind="danger"
        label="Delete"
        submit={() =>
          void act.run(() => api.deleteGrantPolicy(request)).then((done) => {
            if (!done) return;
            void queries.invalidateQueries({ queryKey: ["grant policies"] });
            close();
          })
        }
        same={{ cli: command(`grant-policy delete ${p.id}`), api: call(GrantPolicyService.method.deleteGrantPolicy, request) }}
      >
        <p>Nothing can be asked for by it any more. What was asked for keeps its terms, and what is in force goes on.</p>
      </FormDialog>
    );
  }
  return (
    <Dialog title={p.name} open close={close}>
      <Facts
        of={[
          ["For", p.description],
          ["Role", p.roleId ? <RoleName key="r" id={p.roleId} /> : "any role"],
          ["Where", called(spotOf(p.scope))],
          ["Approvals", p.approvals === 0 ? "none: who asks gets it" : p.approvals === 1 ? "one person" : `${p.approvals} people`],
          [
            "Approvers",
            p.approvals > 0 &&
              (p.approvers.length === 0 ? (
                "whoever holds grants.approve there"
              ) : (
                <ul key="a">
                  {p.approvers.map((g) => (
                    <li key={g}>
                      <Subject kind="group" id={g} />
                    </li>
                  ))}
                </ul>
              )),
          ],
          ["At most for", span(p.maxDuration)],
          ["Requests stay open", span(p.wait)],
          ["Ticket", p.ticketPattern && `matches ${p.ticketPattern}`],
          ["Webhook", p.webhook],
          ["Made", <Ago key="c" at={p.createdAt} />],
          ["By", <Actor key="b" id={p.createdBy} />],
          ["Id", <span key="i" className="font-mono text-[12.5px]">{p.id}</span>],
        ]}
      />
      <div className="flex justify-end gap-2">
        <Button onClick={close}>Close</Button>
        <Button kind="danger" why={why("grant_policies.delete")} onClick={() => setDeleting(true)}>
          Delete…
        </Button>
      </div>
    </Dialog>
  );
}
