// Machines that act, by API keys of theirs.
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { access as api } from "../../api/access";
import { ServiceAccountService, type ServiceAccount } from "../../api/gen/loopback/v1/principal_pb";
import { command } from "../../api/shell";
import { usePages, useShown } from "../../app/list";
import { access } from "../../app/pages";
import { useSession } from "../../app/session";
import { Tabs } from "../../app/tabs";
import { Button, Card, Empty, Field, Input, Page, Problem, Waiting } from "../../ui/basics";
import { call, FormDialog, useAct, useEdit } from "../../ui/form";
import { Table, type Column } from "../../ui/table";
import { OrganisationField } from "./organisation";
import { PrincipalDialog, type Kind, type Within } from "./principal";
import { nameColumn, refresh, restColumns } from "./principals";

export function ServiceAccounts() {
  const { why } = useSession();
  const search = useSearch({ strict: false }) as { open?: string };
  const navigate = useNavigate();
  const [making, setMaking] = useState(false);
  const set = (open?: string) => void navigate({ to: ".", search: ((old: object) => ({ ...old, open })) as never, replace: true });
  const list = usePages(["service accounts", "list"], (token) => api.serviceAccounts.listServiceAccounts({ page: { size: 200, token } }));
  const [name, rest] = [nameColumn<ServiceAccount>((u) => set(u.id)), restColumns<ServiceAccount>()];
  const columns: Column<ServiceAccount>[] = [name, ...rest];
  const shown = useShown(list.rows, search.open, "service accounts", (serviceAccount) => api.serviceAccounts.getServiceAccount({ serviceAccount }));
  return (
    <Page
      title="Service accounts"
      about="Machines that act, by API keys. A key is good for no more than its account was given."
      actions={
        <Button kind="primary" why={why("service_accounts.create")} onClick={() => setMaking(true)}>
          New service account
        </Button>
      }
    >
      <Tabs of={access} />
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? <Waiting /> : <Table label="service accounts" columns={columns} rows={list.rows} id={(u) => u.id} more={list.more} open={(u) => set(u.id)} empty={<Empty title="No service account yet">{<p>Make one for each machine that acts, give it a role by a binding, and make API keys for it.</p>}</Empty>} />}
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
  const [description, setDescription] = useState("");
  const [organisation, setOrganisation] = useState("");
  const request = { name, description, organisation };
  return (
    <FormDialog
      title="New service account"
      close={close}
      act={act}
      label="Add"
      submit={() =>
        void act.run(() => api.serviceAccounts.createServiceAccount(request)).then((done) => {
          if (!done) return;
          refresh(queries);
          close();
        })
      }
      same={{ cli: command(`service-account create ${name || "NAME"}`, [["description", description], ["org", organisation]]), api: call(ServiceAccountService.method.createServiceAccount, request) }}
    >
      <Field label="Name">{(at) => <Input {...at} autoFocus required value={name} placeholder="ci" onChange={(e) => setName(e.target.value)} />}</Field>
      <Field label="What it is for">{(at) => <Input {...at} value={description} maxLength={500} onChange={(e) => setDescription(e.target.value)} />}</Field>
      <OrganisationField value={organisation} set={setOrganisation} />
    </FormDialog>
  );
}

const kind: Kind<ServiceAccount> = {
  subject: "service_account",
  noun: "service-account",
  permissions: "service_accounts",
  means: {
    delete: "With it go its bindings and API keys. What it did stays in the audit log.",
    disable: "It may do nothing, from now on and everywhere. Its keys open nothing, its streams end.",
    enable: "It may do again what it was given.",
  },
  remove: (u) => ({ api: call(ServiceAccountService.method.deleteServiceAccount, { serviceAccount: u.id }), does: () => api.serviceAccounts.deleteServiceAccount({ serviceAccount: u.id }) }),
  disable: (u, disabled) => ({ api: call(ServiceAccountService.method.updateServiceAccount, { serviceAccount: u.id, disabled }), does: () => api.serviceAccounts.updateServiceAccount({ serviceAccount: u.id, disabled }) }),
};

function One({ u, close }: { u: ServiceAccount; close: () => void }) {
  return <PrincipalDialog kind={kind} p={u} close={close} facts={[["What it is for", u.description]]} change={(within) => <Change u={u} {...within} />} />;
}

function Change({ u, close, back, act, run }: { u: ServiceAccount } & Within) {
  const { value, set, changed, disputed, theirs } = useEdit({ description: u.description }, { description: "What it is for" });
  const request = { serviceAccount: u.id, description: changed("description"), revision: u.revision };
  return (
    <FormDialog title={`Change ${u.name}`} close={close} back={back} act={act} label={disputed ? "Save mine over it" : "Save"} submit={() => run(() => api.serviceAccounts.updateServiceAccount(request))} same={{ cli: command(`service-account update ${u.id}`, [["description", request.description]]), api: call(ServiceAccountService.method.updateServiceAccount, request) }}>
      <Field label="What it is for">{(at) => <Input {...at} autoFocus value={value("description")} maxLength={500} onChange={(e) => set("description", e.target.value)} />}</Field>
      {theirs}
    </FormDialog>
  );
}
