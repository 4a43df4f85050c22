// Where one is signed in, and ending that.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, signOut, troubleOf } from "../api/client";
import { SignInService, type SignIn } from "../api/gen/loopback/v1/signin_pb";
import { PasskeyService, type Passkey } from "../api/gen/loopback/v1/passkey_pb";
import { register, without } from "../api/passkey";
import { command, quoted } from "../api/shell";
import { usePages } from "../app/list";
import { useSession } from "../app/session";
import { Ago, Button, Card, Empty, Field, Input, Page, Problem, Waiting } from "../ui/basics";
import { call, FormDialog, useAct, type Elsewhere } from "../ui/form";
import { Table, type Column } from "../ui/table";

const said: Record<string, string> = { api_key: "API key", oidc: "identity provider", passkey: "passkey", bootstrap: "one-time code", device: "approved device" };

/** What a browser says of itself, as people would say it; the whole is in the title. */
function programOf(agent: string): string {
  if (!agent.startsWith("Mozilla/")) return agent || "unknown";
  const find = (names: [RegExp, string][]) => names.find(([sign]) => sign.test(agent))?.[1];
  const browser = find([[/Edg\//, "Edge"], [/OPR\//, "Opera"], [/Firefox\//, "Firefox"], [/Chrom(e|ium)\/|HeadlessChrome/, "Chrome"], [/Safari\//, "Safari"]]);
  const system = find([[/Windows/, "Windows"], [/iPhone|iPad/, "iOS"], [/Android/, "Android"], [/Mac OS X/, "macOS"], [/CrOS/, "ChromeOS"], [/Linux/, "Linux"]]);
  return browser ? `${browser}${system ? ` on ${system}` : ""}` : agent;
}

export function Account() {
  const queries = useQueryClient();
  const { who, leave } = useSession();
  const [all, setAll] = useState(false);
  const leaving = useAct();
  const [busy, setBusy] = useState("");
  const [error, setError] = useState<unknown>();
  const list = usePages(["my sign-ins"], (token) => api.signIns.listMySignIns({ page: { size: 200, token } }));
  async function end(s: SignIn) {
    if (s.id === who.id) return leave();
    setBusy(s.id);
    setError(undefined);
    try {
      await api.signIns.signOut({ signIn: s.id });
      await queries.invalidateQueries({ queryKey: ["my sign-ins"] });
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy("");
    }
  }
  const columns: Column<SignIn>[] = [
    {
      key: "program",
      head: "Program",
      width: "minmax(10rem,3fr)",
      cell: (s) => (
        <span className="truncate" title={s.agent}>
          {s.id === who.id && <strong className="mr-2 font-medium">this one</strong>}
          {programOf(s.agent)}
        </span>
      ),
    },
    { key: "method", head: "By", width: "10.5rem", narrow: "hide", cell: (s) => said[s.method] ?? s.method },
    { key: "from", head: "From", width: "9rem", narrow: "hide", cell: (s) => <span className="font-mono text-[12.5px]">{s.address}</span> },
    { key: "used", head: "Last used", width: "7rem", cell: (s) => <Ago at={s.lastUsedAt} /> },
    { key: "ends", head: "Ends", width: "7rem", narrow: "hide", cell: (s) => <Ago at={s.expiresAt} /> },
    {
      key: "act",
      head: <span className="sr-only">acts</span>,
      width: "7rem",
      cell: (s) => (
        <Button busy={busy === s.id} onClick={() => void end(s)}>
          Sign out
        </Button>
      ),
    },
  ];
  return (
    <Page
      title="Your account"
      about="How you sign in, and the browsers and command lines that act as you."
      actions={
        <Button kind="danger" onClick={() => setAll(true)}>
          Sign out everywhere
        </Button>
      }
    >
      {error !== undefined && <Problem error={error} />}
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Passkeys />
      <Card flush title="Your sign-ins">{list.pending ? <Waiting /> : <Table label="Your sign-ins" columns={columns} rows={list.rows} id={(s) => s.id} more={list.more} empty={<Empty title="None" />} />}</Card>
      {all && (
        <FormDialog title="Sign out everywhere" close={() => setAll(false)} act={leaving} kind="danger" label="Sign out everywhere" submit={() => void leaving.run(() => signOut(true).then(() => window.location.assign("/")))} same={{ cli: "loopback logout --everywhere", api: call(SignInService.method.signOut, { everywhere: true }) }}>
          <p>Every browser and command line that acts as you is turned away at once, this one included. API keys stay.</p>
        </FormDialog>
      )}
    </Page>
  );
}

/** One's passkeys: made, named and removed. */
function Passkeys() {
  const queries = useQueryClient();
  const { who } = useSession();
  const ways = useQuery({ queryKey: ["ways in"], queryFn: () => api.signIns.listSignInMethods({}), staleTime: 60_000 });
  const list = usePages(["my passkeys"], (token) => api.passkeys.listMyPasskeys({ page: { size: 200, token } }));
  const [making, setMaking] = useState(false);
  const [naming, setNaming] = useState<Passkey>();
  const [removing, setRemoving] = useState<Passkey>();
  const again = () => queries.invalidateQueries({ queryKey: ["my passkeys"] });
  const unavailable = ways.data && without(ways.data.passkeyDomain, ways.data.url);
  const byKey = who.signIn?.apiKeyId ? "who signed in with an API key cannot make a passkey: have somebody invite you, or sign in by a provider" : "";
  const columns: Column<Passkey>[] = [
    { key: "name", head: "Name", width: "minmax(9rem,3fr)", cell: (p) => <span className="truncate" title={p.name}>{p.name}</span> },
    { key: "kept", head: "Kept", width: "11rem", narrow: "hide", cell: (p) => (p.backedUp ? "in an account, with copies" : "on one device") },
    { key: "made", head: "Made", width: "7rem", narrow: "hide", cell: (p) => <Ago at={p.createdAt} /> },
    { key: "used", head: "Last used", width: "7rem", narrow: "hide", cell: (p) => <Ago at={p.lastUsedAt} /> },
    {
      key: "act",
      head: <span className="sr-only">acts</span>,
      width: "13rem",
      cell: (p) => (
        <span className="flex gap-2">
          <Button onClick={() => setNaming(p)}>Rename</Button>
          <Button kind="danger" onClick={() => setRemoving(p)}>
            Remove
          </Button>
        </span>
      ),
    },
  ];
  return (
    <>
      <Card
        flush
        title="Your passkeys"
        actions={
          <Button why={unavailable?.message ?? byKey} onClick={() => setMaking(true)}>
            Add a passkey
          </Button>
        }
      >
        {unavailable && (
          <p className="border-b border-line px-4 py-2.5 text-soft">
            {unavailable.message} {unavailable.hint}
          </p>
        )}
        {list.error && <Problem error={list.error} retry={list.again} />}
        {list.pending ? (
          <Waiting rows={2} />
        ) : (
          <Table
            label="Your passkeys"
            columns={columns}
            rows={list.rows}
            id={(p) => p.id}
            more={list.more}
            empty={<Empty title="No passkeys">{byKey ? <p>{byKey}</p> : <p>A passkey signs you in by finger, face or PIN, and cannot be phished. Some acts take one.</p>}</Empty>}
          />
        )}
      </Card>
      {making && <Naming title="Add a passkey" act="Make passkey" first="" does={register} same={() => byHand} close={() => setMaking(false)} done={again} />}
      {naming && (
        <Naming
          title="Rename a passkey"
          act="Rename"
          first={naming.name}
          does={async (name) => void (await api.passkeys.renamePasskey({ passkey: naming.id, name }))}
          same={(name) => ({ cli: command(`passkey rename ${naming.id} ${quoted(name || "NAME")}`), api: call(PasskeyService.method.renamePasskey, { passkey: naming.id, name }) })}
          close={() => setNaming(undefined)}
          done={again}
        />
      )}
      {removing && <Removing passkey={removing} close={() => setRemoving(undefined)} done={again} />}
    </>
  );
}

const byHand = "Only a browser can make a passkey: no command and no call does.";

function Naming({ title, act: label, first, does, same, close, done }: { title: string; act: string; first: string; does: (name: string) => Promise<void>; same: (name: string) => Elsewhere | string; close: () => void; done: () => Promise<void> }) {
  const act = useAct();
  const [name, setName] = useState(first);
  const submit = () =>
    void act.run(async () => {
      await does(name.trim());
      await done();
      close();
    });
  return (
    <FormDialog title={title} close={close} act={act} label={label} submit={submit} same={same(name.trim())}>
      <Field label="Name" hint="By which you know it again: the device or the account that keeps it.">
        {(at) => <Input {...at} autoFocus required maxLength={100} autoComplete="off" placeholder="work laptop" value={name} onChange={(e) => setName(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}

function Removing({ passkey, close, done }: { passkey: Passkey; close: () => void; done: () => Promise<void> }) {
  const act = useAct();
  const last = act.error !== undefined && troubleOf(act.error).code === "passkey_last";
  const request = { passkey: passkey.id, evenLast: last };
  const submit = () =>
    void act.run(async () => {
      await api.passkeys.removePasskey(request);
      await done();
      close();
    });
  return (
    <FormDialog title={`Remove ${passkey.name}`} close={close} act={act} kind="danger" label={last ? "Remove my last way in" : "Remove"} submit={submit} same={{ cli: command(`passkey remove ${passkey.id}`, [["even-last", last]]), api: call(PasskeyService.method.removePasskey, request) }}>
      <p>It signs nobody in any more, and sign-ins that began with it end, but for this one. Delete it where you keep it, too.</p>
    </FormDialog>
  );
}
