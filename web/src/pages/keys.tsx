// API keys: credentials of scripts.
import { useQueryClient } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";
import { api } from "../api/client";
import { parseDuration, toProto } from "../api/duration";
import type { ApiKey } from "../api/gen/loopback/v1/apikey_pb";
import { usePages } from "../app/list";
import { useSession } from "../app/session";
import { Ago, Button, Card, Command, Dialog, Empty, Field, Input, Page, Problem, State, Waiting, useNow } from "../ui/basics";
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
  const [name, setName] = useState("");
  const [permissions, setPermissions] = useState("");
  const [ttl, setTtl] = useState("90d");
  const [secret, setSecret] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const length = parseDuration(ttl);
  const list = permissions.split(/[\s,]+/).filter(Boolean);
  async function submit(e: FormEvent) {
    e.preventDefault();
    if (length === undefined) return;
    setBusy(true);
    setError(undefined);
    try {
      const made = await api.apiKeys.createApiKey({ name, permissions: list, ttl: toProto(length) });
      setSecret(made.secret);
      void queries.invalidateQueries({ queryKey: ["keys"] });
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  }
  return (
    <Dialog title={secret ? "Keep this key" : "New API key"} open close={close}>
      {secret ? (
        <>
          <p>
            It is shown <strong>once</strong>.
          </p>
          <Command text={secret} label="API key" />
          <div className="flex justify-end">
            <Button kind="primary" onClick={close}>
              I have kept it
            </Button>
          </div>
        </>
      ) : (
        <form className="flex flex-col gap-4" onSubmit={(e) => void submit(e)}>
          <Field label="Name">{(at) => <Input {...at} autoFocus required value={name} placeholder="ci" onChange={(e) => setName(e.target.value)} />}</Field>
          <Field label="Permissions" hint="such as hosts.read agent_tokens.mint; * is everything that you may">
            {(at) => <Input {...at} required value={permissions} onChange={(e) => setPermissions(e.target.value)} />}
          </Field>
          <Field label="Works for" error={length === undefined ? "write it like 12h or 90d" : undefined}>
            {(at) => <Input {...at} required value={ttl} onChange={(e) => setTtl(e.target.value)} />}
          </Field>
          <Command text={`loopback apikey create ${name || "NAME"} ${list.map((p) => `--permission ${p === "*" ? "'*'" : p}`).join(" ")} --ttl ${ttl}`} />
          {error !== undefined && <Problem error={error} />}
          <div className="flex justify-end gap-2">
            <Button onClick={close}>Cancel</Button>
            <Button type="submit" kind="primary" busy={busy} disabled={length === undefined}>
              Make key
            </Button>
          </div>
        </form>
      )}
    </Dialog>
  );
}

function Revoke({ k, own, close }: { k: ApiKey; own: boolean; close: () => void }) {
  const queries = useQueryClient();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  return (
    <Dialog title={`Revoke ${k.name}`} open close={close}>
      <p>What uses it is turned away from its next call on.</p>
      {own && <p className="font-medium text-bad">You are signed in with this key: you will be signed out.</p>}
      <Command text={`loopback apikey revoke ${k.id}`} />
      {error !== undefined && <Problem error={error} />}
      <div className="flex justify-end gap-2">
        <Button onClick={close}>Cancel</Button>
        <Button
          kind="danger"
          busy={busy}
          onClick={() => {
            setBusy(true);
            api.apiKeys
              .revokeApiKey({ apiKey: k.id })
              .then(() => {
                void queries.invalidateQueries({ queryKey: ["keys"] });
                close();
              })
              .catch((problem: unknown) => {
                setError(problem);
                setBusy(false);
              });
          }}
        >
          Revoke
        </Button>
      </div>
    </Dialog>
  );
}
