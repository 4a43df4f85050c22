// People who act.
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { access as api } from "../../api/access";
import { api as invitations } from "../../api/client";
import { InvitationService } from "../../api/gen/loopback/v1/invitation_pb";
import { UserService, type User } from "../../api/gen/loopback/v1/principal_pb";
import { command } from "../../api/shell";
import { usePages, useShown } from "../../app/list";
import { access } from "../../app/pages";
import { useSession } from "../../app/session";
import { Tabs } from "../../app/tabs";
import { Button, Card, Command, Dialog, Empty, Field, Input, Page, Problem, Waiting } from "../../ui/basics";
import { call, FormDialog, useAct, useEdit } from "../../ui/form";
import { Table, type Column } from "../../ui/table";
import { OrganisationField } from "./organisation";
import { PrincipalDialog, type Kind, type Within } from "./principal";
import { nameColumn, refresh, restColumns } from "./principals";

export function People() {
  const { why } = useSession();
  const search = useSearch({ strict: false }) as { open?: string };
  const navigate = useNavigate();
  const [making, setMaking] = useState(false);
  const set = (open?: string) => void navigate({ to: ".", search: ((old: object) => ({ ...old, open })) as never, replace: true });
  const list = usePages(["users", "list"], (token) => api.users.listUsers({ page: { size: 200, token } }));
  const [name, rest] = [nameColumn<User>((u) => set(u.id)), restColumns<User>()];
  const columns: Column<User>[] = [name, { key: "email", head: "E-mail", width: "minmax(10rem,2fr)", narrow: "hide", cell: (u) => <span title={u.email}>{u.email}</span> }, ...rest];
  const shown = useShown(list.rows, search.open, "users", (user) => api.users.getUser({ user }));
  return (
    <Page
      title="People"
      about="People who act. What each may do is in bindings, of their own or of their groups."
      actions={
        <Button kind="primary" why={why("users.create")} onClick={() => setMaking(true)}>
          New person
        </Button>
      }
    >
      <Tabs of={access} />
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? <Waiting /> : <Table label="people" columns={columns} rows={list.rows} id={(u) => u.id} more={list.more} open={(u) => set(u.id)} empty={<Empty title="Nobody yet">{<p>Add people by hand, or let an identity provider do so when they first sign in.</p>}</Empty>} />}
      </Card>
      {making && <Make close={() => setMaking(false)} />}
      {shown && <One key={shown.id} u={shown} close={() => set()} />}
    </Page>
  );
}

function Make({ close }: { close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [name, setName] = useState("");
  const [email, setEmail] = useState("");
  const [identity, setIdentity] = useState("");
  const [description, setDescription] = useState("");
  const [organisation, setOrganisation] = useState("");
  const request = { name, email, identity, description, organisation };
  return (
    <FormDialog
      title="New person"
      close={close}
      act={act}
      label="Add"
      submit={() =>
        void act.run(() => api.users.createUser(request)).then((done) => {
          if (!done) return;
          refresh(queries);
          close();
        })
      }
      same={{ cli: command(`user create ${name || "NAME"}`, [["email", email], ["identity", identity], ["description", description], ["org", organisation]]), api: call(UserService.method.createUser, request) }}
    >
      <Field label="Name">{(at) => <Input {...at} autoFocus required value={name} placeholder="ada" onChange={(e) => setName(e.target.value)} />}</Field>
      <Field label="E-mail" hint="a provider that vouches for it may let them in by it">
        {(at) => <Input {...at} type="email" value={email} placeholder="ada@example.com" onChange={(e) => setEmail(e.target.value)} />}
      </Field>
      <Field label="Person behind" hint="as the provider names them, the same for all accounts of theirs: nobody approves what another account of theirs asked for">
        {(at) => <Input {...at} value={identity} onChange={(e) => setIdentity(e.target.value)} />}
      </Field>
      <Field label="Who this is">{(at) => <Input {...at} value={description} maxLength={500} onChange={(e) => setDescription(e.target.value)} />}</Field>
      <OrganisationField value={organisation} set={setOrganisation} />
    </FormDialog>
  );
}

/** The link of an invitation, shown once. */
function Link({ of, url, close }: { of: User; url: string; close: () => void }) {
  return (
    <Dialog title={`Invitation of ${of.name}`} open close={close}>
      <p>
        Shown <strong>once</strong>. It works once, within three days.
      </p>
      <Command text={url} label="link" />
      <div className="flex justify-end">
        <Button kind="primary" onClick={close}>
          Done
        </Button>
      </div>
    </Dialog>
  );
}

const kind: Kind<User> = {
  subject: "user",
  noun: "user",
  permissions: "users",
  means: {
    delete: "With them go their bindings, memberships and API keys. What they did stays in the audit log.",
    disable: "They may do nothing, from now on and everywhere. Their keys open nothing, their sign-ins and streams end.",
    enable: "They may do again what they were given.",
  },
  remove: (u) => ({ api: call(UserService.method.deleteUser, { user: u.id }), does: () => api.users.deleteUser({ user: u.id }) }),
  disable: (u, disabled) => ({ api: call(UserService.method.updateUser, { user: u.id, disabled }), does: () => api.users.updateUser({ user: u.id, disabled }) }),
};

function One({ u, close }: { u: User; close: () => void }) {
  const { why } = useSession();
  return (
    <PrincipalDialog
      kind={kind}
      p={u}
      close={close}
      facts={[
        ["E-mail", u.email],
        ["Person behind", u.identity],
        ["Who this is", u.description],
      ]}
      change={(within) => <Change u={u} {...within} />}
      more={{ label: "Invite…", why: u.disabledAt ? "they are disabled: enable them first" : why("invitations.create"), form: (within) => <Invite u={u} {...within} /> }}
    />
  );
}

function Invite({ u, close, back, act }: { u: User } & Within) {
  const [link, setLink] = useState("");
  const request = { user: u.id };
  if (link) return <Link of={u} url={link} close={close} />;
  return (
    <FormDialog title={`Invite ${u.name}?`} close={close} back={back} act={act} label="Make link" submit={() => void act.run(async () => setLink((await invitations.invitations.createInvitation(request)).url))} same={{ cli: command(`user invite ${u.id}`), api: call(InvitationService.method.createInvitation, request) }}>
      <p>It makes a link by which they make a passkey and come in, once, within three days. Whoever has the link comes in as them: send it by a way that only they read.</p>
    </FormDialog>
  );
}

function Change({ u, close, back, act, run }: { u: User } & Within) {
  const { value, set, changed, disputed, theirs } = useEdit({ email: u.email, identity: u.identity, description: u.description }, { email: "E-mail", identity: "Person behind", description: "Who this is" });
  const request = { user: u.id, email: changed("email"), identity: changed("identity"), description: changed("description"), revision: u.revision };
  return (
    <FormDialog title={`Change ${u.name}`} close={close} back={back} act={act} label={disputed ? "Save mine over it" : "Save"} submit={() => run(() => api.users.updateUser(request))} same={{ cli: command(`user update ${u.id}`, [["email", request.email], ["identity", request.identity], ["description", request.description]]), api: call(UserService.method.updateUser, request) }}>
      <Field label="E-mail">{(at) => <Input {...at} autoFocus type="email" value={value("email")} onChange={(e) => set("email", e.target.value)} />}</Field>
      <Field label="Person behind" hint="the same for all accounts of theirs">
        {(at) => <Input {...at} value={value("identity")} onChange={(e) => set("identity", e.target.value)} />}
      </Field>
      <Field label="Who this is">{(at) => <Input {...at} value={value("description")} maxLength={500} onChange={(e) => set("description", e.target.value)} />}</Field>
      {theirs}
    </FormDialog>
  );
}
