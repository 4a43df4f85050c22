// Users who get the same bindings.
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useId, useState } from "react";
import { access as api } from "../../api/access";
import { GroupService, type Group } from "../../api/gen/loopback/v1/principal_pb";
import { command, quoted } from "../../api/shell";
import { usePages, useShown } from "../../app/list";
import { access } from "../../app/pages";
import { useSession } from "../../app/session";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Dialog, Empty, Facts, Field, Input, Page, Problem, Waiting } from "../../ui/basics";
import { call, Form, FormDialog, useAct } from "../../ui/form";
import { Table, type Column } from "../../ui/table";
import { useAll, useName } from "./names";
import { OrganisationField } from "./organisation";
import { BelongsTo, Given, refresh } from "./principals";

export function Groups() {
  const { why } = useSession();
  const search = useSearch({ strict: false }) as { open?: string };
  const navigate = useNavigate();
  const [making, setMaking] = useState(false);
  const set = (open?: string) => void navigate({ to: ".", search: ((old: object) => ({ ...old, open })) as never, replace: true });
  const list = usePages(["groups", "list"], (token) => api.groups.listGroups({ page: { size: 200, token } }));
  const columns: Column<Group>[] = [
    {
      key: "name",
      head: "Name",
      width: "minmax(11rem,2fr)",
      cell: (g) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => set(g.id)} title={g.name}>
          {g.name}
        </button>
      ),
    },
    { key: "members", head: "Members", width: "6rem", cell: (g) => <span className="tabular-nums">{g.members.length.toLocaleString()}</span> },
    { key: "of", head: "Belongs to", width: "minmax(8rem,1fr)", narrow: "hide", cell: (g) => <BelongsTo to={g.scope} /> },
    { key: "description", head: "Who is in it", width: "minmax(9rem,2fr)", narrow: "hide", cell: (g) => <span className="text-soft" title={g.description}>{g.description}</span> },
    { key: "created", head: "Made", width: "6.5rem", narrow: "hide", cell: (g) => <Ago at={g.createdAt} /> },
  ];
  const shown = useShown(list.rows, search.open, "groups", (group) => api.groups.getGroup({ group }));
  return (
    <Page
      title="Groups"
      about="Users who get the same bindings. Nobody can put somebody into a group that gives what they do not hold themselves."
      actions={
        <Button kind="primary" why={why("groups.create")} onClick={() => setMaking(true)}>
          New group
        </Button>
      }
    >
      <Tabs of={access} />
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>{list.pending ? <Waiting /> : <Table label="groups" columns={columns} rows={list.rows} id={(g) => g.id} more={list.more} open={(g) => set(g.id)} empty={<Empty title="No group yet">{<p>Give roles to groups rather than to people one by one: who joins gets them, who leaves loses them.</p>}</Empty>} />}</Card>
      {making && <Make close={() => setMaking(false)} />}
      {shown && <One key={shown.id} g={shown} close={() => set()} />}
    </Page>
  );
}

function Make({ close }: { close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [name, setName] = useState("");
  const [description, setDescription] = useState("");
  const [organisation, setOrganisation] = useState("");
  const request = { name, description, organisation };
  return (
    <FormDialog
      title="New group"
      close={close}
      act={act}
      label="Make group"
      submit={() =>
        void act.run(() => api.groups.createGroup(request)).then((done) => {
          if (!done) return;
          refresh(queries);
          close();
        })
      }
      same={{ cli: command(`group create ${name || "NAME"}`, [["description", description], ["org", organisation]]), api: call(GroupService.method.createGroup, request) }}
    >
      <Field label="Name">{(at) => <Input {...at} autoFocus required value={name} placeholder="on-call" onChange={(e) => setName(e.target.value)} />}</Field>
      <Field label="Who is in it">{(at) => <Input {...at} value={description} maxLength={500} onChange={(e) => setDescription(e.target.value)} />}</Field>
      <OrganisationField value={organisation} set={setOrganisation} />
    </FormDialog>
  );
}

function Member({ id }: { id: string }) {
  const name = useName("user", id);
  return (
    <span className="min-w-0 flex-1 truncate" title={id}>
      {name}
    </span>
  );
}

const shownMembers = 200;

function One({ g, close }: { g: Group; close: () => void }) {
  const { why } = useSession();
  const queries = useQueryClient();
  const act = useAct();
  const list = useId();
  const known = useAll("user");
  const [name, setName] = useState("");
  const [deleting, setDeleting] = useState(false);
  const after = (done: boolean) => {
    if (done) refresh(queries);
    return done;
  };
  const adding = { group: g.id, users: name.trim() ? [name.trim()] : [] };
  const add = () => {
    if (why("groups.update")) return;
    void act.run(() => api.groups.addGroupMembers(adding)).then((done) => after(done) && setName(""));
  };
  if (deleting) {
    const request = { group: g.id };
    return (
      <FormDialog title={`Delete ${g.name}?`} close={close} back={() => setDeleting(false)} act={act} kind="danger" label="Delete" submit={() => void act.run(() => api.groups.deleteGroup(request)).then((done) => after(done) && close())} same={{ cli: command(`group delete ${g.id}`), api: call(GroupService.method.deleteGroup, request) }}>
        <p>{g.members.length === 1 ? "Its member loses what it gave." : `Its ${g.members.length.toLocaleString()} members lose what it gave.`}</p>
        <Given subject={g.id} />
      </FormDialog>
    );
  }
  return (
    <Dialog title={g.name} open close={close}>
      <Facts
        of={[
          ["Who is in it", g.description],
          ["Belongs to", <BelongsTo key="o" to={g.scope} />],
          ["Made", <Ago key="c" at={g.createdAt} />],
          ["Id", <span key="i" className="font-mono text-[12.5px]">{g.id}</span>],
        ]}
      />
      <section aria-label="members" className="flex flex-col gap-1">
        <h3 className="text-[12px] text-soft">Members</h3>
        {g.members.length === 0 ? (
          <p>Nobody is in it.</p>
        ) : (
          <ul className="max-h-56 divide-y divide-line/70 overflow-auto rounded-md border border-line">
            {g.members.slice(0, shownMembers).map((m) => (
              <li key={m} className="flex items-center gap-2 px-3 py-1">
                <Member id={m} />
                <Button kind="quiet" why={why("groups.update")} busy={act.busy} onClick={() => void act.run(() => api.groups.removeGroupMembers({ group: g.id, users: [m] })).then(after)}>
                  Take out
                </Button>
              </li>
            ))}
            {g.members.length > shownMembers && <li className="px-3 py-1.5 text-soft">and {(g.members.length - shownMembers).toLocaleString()} more</li>}
          </ul>
        )}
        <Form className="pt-2" submit={add} same={{ cli: `loopback group add ${g.id} ${quoted(name.trim() || "NAME")}`, api: call(GroupService.method.addGroupMembers, adding) }}>
          <div className="flex items-end gap-2">
            <div className="flex-1">
              <Field label="Put somebody in">{(at) => <Input {...at} list={list} required value={name} placeholder="name or id" onChange={(e) => setName(e.target.value)} />}</Field>
              <datalist id={list}>
                {known.map((k) => (
                  <option key={k.id} value={k.name} />
                ))}
              </datalist>
            </div>
            <Button type="submit" kind="primary" why={why("groups.update")} busy={act.busy} disabled={name.trim() === ""}>
              Add
            </Button>
          </div>
        </Form>
      </section>
      {act.error !== undefined && <Problem error={act.error} />}
      <Given subject={g.id} />
      <div className="flex justify-end gap-2">
        <Button onClick={close}>Close</Button>
        <Button kind="danger" why={why("groups.delete")} onClick={() => setDeleting(true)}>
          Delete…
        </Button>
      </div>
    </Dialog>
  );
}
