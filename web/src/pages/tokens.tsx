// Enrolment tokens, with what to worry about.
import { useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { api } from "../api/client";
import { formatDuration, parseDuration, seconds, toProto } from "../api/duration";
import { TokenService, type MintTokenResponse, type Token } from "../api/gen/loopback/v1/token_pb";
import { command } from "../api/shell";
import { usePages } from "../app/list";
import { paths } from "../app/paths";
import { usePlace } from "../app/place";
import { useSession } from "../app/session";
import { Ago, Button, Card, Command, Dialog, Empty, Facts, Field, Input, Labels, Page, Problem, Select, State, Waiting, linkButton } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";
import { Table, type Column } from "../ui/table";
import { Actor } from "./access/names";

const warnings: Record<string, string> = {
  used_after_revocation: "somebody tried it after it was revoked",
  used_after_expiry: "somebody tried it after it had expired",
  used_after_exhaustion: "somebody tried it after its uses were spent",
  new_network: "it was used from a network that it had not been used from before",
  wrong_network: "it was tried from a network that it is not allowed from",
  wrong_secret: "somebody tried its id with a wrong secret",
  honeytoken_used: "the trap was touched",
  long_lived: "it works for long: prefer short-lived ones",
  unused: "it was never used",
};

const leaks = (t: Token) => t.warnings.filter((w) => w !== "long_lived" && w !== "unused");

export function Tokens() {
  const { workspace } = usePlace();
  const { why } = useSession();
  const search = useSearch({ strict: false }) as { state?: string };
  const navigate = useNavigate();
  const [open, setOpen] = useState<Token>();
  const state = search.state ?? "";
  const list = usePages(["tokens", workspace, state], (token) => api.tokens.listTokens({ workspace, states: state ? [state] : [], page: { size: 200, token } }));
  const columns: Column<Token>[] = [
    {
      key: "name",
      head: "Name",
      width: "minmax(11rem,2fr)",
      cell: (t) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => setOpen(t)} title={t.name}>
          {t.name}
        </button>
      ),
    },
    { key: "state", head: "State", width: "7.5rem", cell: (t) => <State of={t.state} /> },
    { key: "uses", head: "Uses", width: "6rem", narrow: "hide", cell: (t) => <span className="tabular-nums">{`${t.uses} of ${t.maxUses}`}</span> },
    { key: "expires", head: "Expires", width: "7rem", cell: (t) => <Ago at={t.expiresAt} /> },
    { key: "used", head: "Last used", width: "7rem", narrow: "hide", cell: (t) => <Ago at={t.lastUsedAt} /> },
    {
      key: "warnings",
      head: "Warnings",
      width: "minmax(9rem,2fr)",
      narrow: "hide",
      cell: (t) => (
        <span className={leaks(t).length ? "font-medium text-bad" : "text-soft"} title={t.warnings.map((w) => warnings[w] ?? w).join("; ")}>
          {t.warnings.map((w) => w.replaceAll("_", " ")).join(", ")}
        </span>
      ),
    },
    { key: "description", head: "For", width: "minmax(8rem,2fr)", narrow: "hide", cell: (t) => <span title={t.description}>{t.description}</span> },
  ];
  return (
    <Page
      title="Tokens"
      about="What lets new hosts in. Hosts that are enrolled need theirs no more."
      actions={
        <Link to={paths.enrol} search={((old: { in?: string }) => ({ in: old.in })) as never} {...linkButton("primary", why("agent_tokens.mint"))}>
          Mint a token
        </Link>
      }
    >
      <Select aria-label="state" value={state} onChange={(e) => void navigate({ to: ".", search: ((old: object) => ({ ...old, state: e.target.value || undefined })) as never, replace: true })} className="w-40!">
        <option value="">All states</option>
        {["active", "exhausted", "expired", "revoked"].map((s) => (
          <option key={s}>{s}</option>
        ))}
      </Select>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table label="tokens" columns={columns} rows={list.rows} id={(t) => t.id} more={list.more} open={setOpen} empty={<Empty title={state ? `No token is ${state}` : "No token yet"}>{!state && <p>Minting one is the first step to a managed host.</p>}</Empty>} />
        )}
      </Card>
      {open && <TokenDialog t={open} close={() => setOpen(undefined)} />}
    </Page>
  );
}

function TokenDialog({ t, close }: { t: Token; close: () => void }) {
  const { why } = useSession();
  const [doing, setDoing] = useState<"rotate" | "revoke">();
  const [successor, setSuccessor] = useState<MintTokenResponse>();
  if (doing === "revoke") return <Revoke t={t} back={() => setDoing(undefined)} close={close} />;
  if (doing === "rotate")
    return (
      <Rotate
        t={t}
        back={() => setDoing(undefined)}
        close={close}
        done={(s) => {
          setSuccessor(s);
          setDoing(undefined);
        }}
      />
    );
  return (
    <Dialog title={t.name} open close={close}>
      {leaks(t).length > 0 && (
        <ul role="alert" className="rounded-md border border-bad/40 bg-bad-wash px-3 py-2 text-[13px]">
          {leaks(t).map((w) => {
            const signal = t.signals.find((s) => s.kind === w);
            return (
              <li key={w}>
                <span className="font-medium text-bad">{warnings[w] ?? w}</span>
                {signal && (
                  <span className="text-soft">
                    {" "}
                    {`${signal.count}×, last from ${signal.address || "?"} `}
                    <Ago at={signal.lastAt} />
                  </span>
                )}
              </li>
            );
          })}
        </ul>
      )}
      <Facts
        of={[
          ["State", <State key="s" of={t.state} />],
          ["Id", <span key="i" className="font-mono text-[12.5px]">{t.id}</span>],
          ["For", t.description],
          ["Uses", `${t.uses} of ${t.maxUses}`],
          ["Expires", <Ago key="e" at={t.expiresAt} />],
          ["Last used", <span key="l"><Ago at={t.lastUsedAt} />{t.lastAddress && ` from ${t.lastAddress}`}</span>],
          ["From", t.allowedNetworks.join(", ")],
          ["Host names", t.hostNamePattern],
          ["Approval", t.requiresApproval ? "its hosts wait for it" : ""],
          ["Host labels", Object.keys(t.hostLabels).length > 0 && <Labels key="b" of={t.hostLabels} />],
          ["Removed after", t.ephemeralTtl && `${formatDuration(seconds(t.ephemeralTtl) ?? 0)} offline`],
          ["Channel", t.channel],
          ["Honeytoken", t.honeytoken ? "a trap: enrols nobody" : ""],
          ["Made by", <Actor key="m" id={t.createdBy} />],
          ["Revoked", t.revokedAt && <span key="r"><Ago at={t.revokedAt} />{t.reason && `: ${t.reason}`}</span>],
          ["Hosts", <Link key="h" to={paths.audit} search={{ target: t.id } as never} className="text-accent hover:underline">what it was used for</Link>],
        ]}
      />
      {successor && (
        <div className="flex flex-col gap-2">
          <p>
            The successor, shown <strong>once</strong>:
          </p>
          <Command text={successor.secret} label="token" />
          <Command text={successor.installCommand} />
        </div>
      )}
      <div className="flex justify-end gap-2">
        <Button onClick={close}>Close</Button>
        {t.state === "active" && !successor && (
          <Button why={why("agent_tokens.rotate")} onClick={() => setDoing("rotate")}>
            Rotate…
          </Button>
        )}
        {t.state !== "revoked" && !successor && (
          <Button kind="danger" why={why("agent_tokens.revoke")} onClick={() => setDoing("revoke")}>
            Revoke…
          </Button>
        )}
      </div>
    </Dialog>
  );
}

function Rotate({ t, back, close, done }: { t: Token; back: () => void; close: () => void; done: (successor: MintTokenResponse) => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [overlap, setOverlap] = useState("1h");
  const length = parseDuration(overlap);
  const request = { token: t.id, overlap: length === undefined ? undefined : toProto(length) };
  const submit = () =>
    void act.run(async () => {
      done(await api.tokens.rotateToken(request));
      void queries.invalidateQueries({ queryKey: ["tokens"] });
    });
  return (
    <FormDialog title={`Rotate ${t.name}`} close={close} back={back} act={act} label="Rotate" disabled={length === undefined} submit={submit} same={{ cli: command(`token rotate ${t.id}`, [["overlap", overlap]]), api: call(TokenService.method.rotateToken, request) }}>
      <p>It makes a successor that lets in what this one did. Both work until the overlap ends.</p>
      <Field label="Overlap" hint="0s ends the old one at once" error={length === undefined ? "write it like 15m, 2h or 7d" : undefined}>
        {(at) => <Input {...at} autoFocus value={overlap} onChange={(e) => setOverlap(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}

function Revoke({ t, back, close }: { t: Token; back: () => void; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [hosts, setHosts] = useState("keep");
  const [reason, setReason] = useState("");
  const request = { token: t.id, hosts, reason: reason.trim() };
  const submit = () =>
    void act
      .run(() => api.tokens.revokeToken({ ...request, requestId: crypto.randomUUID() }))
      .then((done) => {
        if (!done) return;
        void queries.invalidateQueries({ queryKey: ["tokens"] });
        close();
      });
  return (
    <FormDialog title={`Revoke ${t.name}`} close={close} back={back} act={act} kind="danger" label="Revoke" submit={submit} same={{ cli: command(`token revoke ${t.id}`, [["hosts", hosts === "keep" ? "" : hosts], ["reason", request.reason]]), api: call(TokenService.method.revokeToken, request) }}>
      <p>It lets nobody in any more, from now on.</p>
      <Field label="Hosts that it enrolled">
        {(at) => (
          <Select {...at} value={hosts} onChange={(e) => setHosts(e.target.value)}>
            <option value="keep">stay as they are</option>
            <option value="quarantine">are quarantined</option>
            <option value="expel">are removed for good</option>
          </Select>
        )}
      </Field>
      <Field label="Reason" hint="goes to the audit log">
        {(at) => <Input {...at} autoFocus value={reason} maxLength={500} onChange={(e) => setReason(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}
