// Enrolment tokens, with what to worry about.
import { useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useState, type FormEvent } from "react";
import { api } from "../api/client";
import { formatDuration, seconds } from "../api/duration";
import type { Token } from "../api/gen/loopback/v1/token_pb";
import { usePages } from "../app/list";
import { paths } from "../app/paths";
import { usePlace } from "../app/place";
import { useSession } from "../app/session";
import { Ago, Button, Card, Command, Dialog, Empty, Facts, Field, Input, Labels, Page, Problem, Select, State, Waiting, linkButton } from "../ui/basics";
import { Table, type Column } from "../ui/table";

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
    { key: "uses", head: "Uses", width: "6rem", cell: (t) => <span className="tabular-nums">{`${t.uses} of ${t.maxUses}`}</span> },
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
  const queries = useQueryClient();
  const [hosts, setHosts] = useState("keep");
  const [reason, setReason] = useState("");
  const [revoking, setRevoking] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const [successor, setSuccessor] = useState<{ secret: string; command: string }>();
  async function act(does: () => Promise<void>) {
    setBusy(true);
    setError(undefined);
    try {
      await does();
      void queries.invalidateQueries({ queryKey: ["tokens"] });
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  }
  const revoke = (e: FormEvent) => {
    e.preventDefault();
    void act(async () => {
      await api.tokens.revokeToken({ token: t.id, hosts, reason, requestId: crypto.randomUUID() });
      close();
    });
  };
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
          ["Made by", <span key="m" className="font-mono text-[12.5px]">{t.createdBy}</span>],
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
          <Command text={successor.command} />
        </div>
      )}
      {revoking && (
        <form className="flex flex-col gap-3 border-t border-line pt-4" onSubmit={revoke}>
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
          <Command text={`loopback token revoke ${t.id}${hosts === "keep" ? "" : ` --hosts ${hosts}`}${reason ? ` --reason ${JSON.stringify(reason)}` : ""}`} />
          <div className="flex justify-end gap-2">
            <Button onClick={() => setRevoking(false)}>Back</Button>
            <Button type="submit" kind="danger" busy={busy}>
              Revoke
            </Button>
          </div>
        </form>
      )}
      {error !== undefined && <Problem error={error} />}
      {!revoking && (
        <div className="flex justify-end gap-2">
          <Button onClick={close}>Close</Button>
          {t.state === "active" && !successor && (
            <>
              <Button
                busy={busy}
                why={why("agent_tokens.rotate")}
                onClick={() =>
                  void act(async () => {
                    const answer = await api.tokens.rotateToken({ token: t.id });
                    setSuccessor({ secret: answer.secret, command: answer.installCommand });
                  })
                }
              >
                Rotate
              </Button>
              <Button kind="danger" why={why("agent_tokens.revoke")} onClick={() => setRevoking(true)}>
                Revoke…
              </Button>
            </>
          )}
          {t.state !== "active" && t.state !== "revoked" && (
            <Button kind="danger" why={why("agent_tokens.revoke")} onClick={() => setRevoking(true)}>
              Revoke…
            </Button>
          )}
        </div>
      )}
    </Dialog>
  );
}
