// API keys: credentials of scripts.
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api/client";
import { parseDuration, toProto } from "../api/duration";
import { ApiKeyService, type ApiKey } from "../api/gen/loopback/v1/apikey_pb";
import { command, quoted } from "../api/shell";
import { usePages } from "../app/list";
import { useSession } from "../app/session";
import { Ago, Button, Card, Command, Dialog, Empty, Field, Input, Page, Problem, State, Waiting, useNow } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";
import { Table, type Column } from "../ui/table";
import { timestampDate } from "@bufbuild/protobuf/wkt";

export function Keys() {
  const { why, who } = useSession();
  const now = useNow();
  const [making, setMaking] = useState(false);
  const [revoking, setRevoking] = useState<ApiKey>();
  const list = usePages(["keys"], (token) => api.apiKeys.listApiKeys({ page: { size: 200, token } }));
  const stateOf = (k: ApiKey) => (k.revokedAt ? "revoked" : k.expiresAt && timestampDate(k.expiresAt).getTime() < now ? "expired" : "active");
  const columns: Column<ApiKey>[] = [
    { key: "name", head: "Name", width: "minmax(10rem,2fr)", cell: (k) => <span className="font-medium">{k.name}{k.id === (who.signIn?.apiKeyId || who.id) && <span className="ml-2 text-[12px] font-normal text-soft">this one</span>}</span> },
    { key: "state", head: "State", width: "7rem", cell: (k) => <State of={stateOf(k)} /> },
    { key: "expires", head: "Expires", width: "7rem", narrow: "hide", cell: (k) => <Ago at={k.expiresAt} /> },
    { key: "used", head: "Last used", width: "7rem", narrow: "hide", cell: (k) => <Ago at={k.lastUsedAt} /> },
    { key: "may", head: "May", width: "minmax(10rem,2fr)", narrow: "hide", cell: (k) => <span className="font-mono text-[12.5px]" title={k.permissions.join("\n")}>{k.permissions.join(" ")}</span> },
    {
      key: "act",
      head: <span className="sr-only">acts</span>,
      width: "6.5rem",
      cell: (k) =>
        stateOf(k) === "active" && (
          <Button kind="danger" why={why("api_keys.revoke")} onClick={() => setRevoking(k)}>
            Revoke
          </Button>
        ),
    },
  ];
  return (
    <Page
      title="API keys"
      about="Each holds no more than its maker."
      actions={
        <Button kind="primary" why={why("api_keys.create")} onClick={() => setMaking(true)}>
          New key
        </Button>
      }
    >
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>{list.pending ? <Waiting /> : <Table label="API keys" columns={columns} rows={list.rows} id={(k) => k.id} more={list.more} empty={<Empty title="No key" />} />}</Card>
      {making && <Make close={() => setMaking(false)} />}
      {revoking && <Revoke k={revoking} own={revoking.id === (who.signIn?.apiKeyId || who.id)} close={() => setRevoking(undefined)} />}
    </Page>
  );
}

function Make({ close }: { close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [name, setName] = useState("");
  const [permissions, setPermissions] = useState("");
  const [ttl, setTtl] = useState("90d");
  const [secret, setSecret] = useState("");
  const length = parseDuration(ttl);
  const list = permissions.split(/[\s,]+/).filter(Boolean);
  const request = { name, permissions: list, ttl: length === undefined ? undefined : toProto(length) };
  const submit = () =>
    void act.run(async () => {
      setSecret((await api.apiKeys.createApiKey(request)).secret);
      void queries.invalidateQueries({ queryKey: ["keys"] });
    });
  if (secret)
    return (
      <Dialog title="Keep this key" open close={close}>
        <p>
          It is shown <strong>once</strong>.
        </p>
        <Command text={secret} label="API key" />
        <div className="flex justify-end">
          <Button kind="primary" onClick={close}>
            I have kept it
          </Button>
        </div>
      </Dialog>
    );
  return (
    <FormDialog
      title="New API key"
      close={close}
      act={act}
      label="Make key"
      disabled={length === undefined}
      submit={submit}
      same={{ cli: command(`apikey create ${quoted(name || "NAME")}`, [["permission", list], ["ttl", ttl]]), api: call(ApiKeyService.method.createApiKey, request) }}
    >
      <Field label="Name">{(at) => <Input {...at} autoFocus required value={name} placeholder="ci" onChange={(e) => setName(e.target.value)} />}</Field>
      <Field label="Permissions" hint="such as hosts.read agent_tokens.mint; * is everything that you may">
        {(at) => <Input {...at} required value={permissions} onChange={(e) => setPermissions(e.target.value)} />}
      </Field>
      <Field label="Works for" error={length === undefined ? "write it like 12h or 90d" : undefined}>
        {(at) => <Input {...at} required value={ttl} onChange={(e) => setTtl(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}

function Revoke({ k, own, close }: { k: ApiKey; own: boolean; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const request = { apiKey: k.id };
  const submit = () =>
    void act
      .run(() => api.apiKeys.revokeApiKey(request))
      .then((done) => {
        if (!done) return;
        void queries.invalidateQueries({ queryKey: ["keys"] });
        close();
      });
  return (
    <FormDialog title={`Revoke ${k.name}`} close={close} act={act} kind="danger" label="Revoke" submit={submit} same={{ cli: command(`apikey revoke ${k.id}`), api: call(ApiKeyService.method.revokeApiKey, request) }}>
      <p>What uses it is turned away from its next call on.</p>
      {own && <p className="font-medium text-bad">You are signed in with this key: you will be signed out.</p>}
    </FormDialog>
  );
}
