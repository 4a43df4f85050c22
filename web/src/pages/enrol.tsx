// From nothing to managed: choose, mint, run one command, watch each step.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";
import { api } from "../api/client";
import { formatDuration, parseDuration, toProto } from "../api/duration";
import type { Host } from "../api/gen/loopback/v1/host_pb";
import { TokenService, type MintTokenResponse } from "../api/gen/loopback/v1/token_pb";
import { command } from "../api/shell";
import { paths } from "../app/paths";
import { usePlace } from "../app/place";
import { useSession } from "../app/session";
import { Ago, Button, Card, Command, Empty, Field, Input, Page, Select, State, cx } from "../ui/basics";
import { call, Form, useAct } from "../ui/form";
import { lookOf } from "../ui/states";

export function Enrol() {
  const { place, places, choose } = usePlace();
  const { why } = useSession();
  const [minted, setMinted] = useState<MintTokenResponse>();
  const releases = useQuery({ queryKey: ["releases", "any"], queryFn: () => api.releases.listReleases({ page: { size: 1 } }) });
  return (
    <Page title="Enrol a host" about="A token lets new hosts in, and tells them whom to trust.">
      {releases.data?.items.length === 0 && (
        <Card title="First publish the agent">
          <p className="mb-2">Hosts run only programs that you signed, and none is published yet. Where you keep the signing keys:</p>
          <Command text="loopback release publish --keys ~/release-keys --version VERSION bin/agents/VERSION" />
        </Card>
      )}
      {!place && places.length > 1 ? (
        <Card title="Which workspace?">
          <ul className="flex flex-wrap gap-2">
            {places.map((p) => (
              <li key={p.id}>
                <Button onClick={() => choose(p.path)}>{p.label}</Button>
              </li>
            ))}
          </ul>
        </Card>
      ) : why("agent_tokens.mint") ? (
        <Empty title="Somebody else has to do this">
          <p>{why("agent_tokens.mint")}</p>
        </Empty>
      ) : !minted ? (
        place && <Mint key={place.id} workspace={place.id} path={place.path} done={setMinted} />
      ) : (
        <Run minted={minted} again={() => setMinted(undefined)} />
      )}
    </Page>
  );
}

function Mint({ workspace, path, done }: { workspace: string; path: string; done: (m: MintTokenResponse) => void }) {
  const [uses, setUses] = useState("1");
  const [ttl, setTtl] = useState("1h");
  const [channel, setChannel] = useState("stable");
  const [description, setDescription] = useState("");
  const [labels, setLabels] = useState("");
  const [approval, setApproval] = useState(false);
  const act = useAct();
  const length = parseDuration(ttl);
  const hostLabels = Object.fromEntries(
    labels
      .split(/[\s,]+/)
      .filter(Boolean)
      .map((pair) => [pair.split("=")[0]!, pair.split("=").slice(1).join("=")]),
  );
  const request = { workspace, maxUses: Number(uses), description, channel, requiresApproval: approval, hostLabels, ttl: length === undefined ? undefined : toProto(length) };
  const submit = () => {
    if (length !== undefined) void act.run(async () => done(await api.tokens.mintToken(request)));
  };
  return (
    <Card title="1. Mint a token">
      <Form
        className="max-w-2xl"
        submit={submit}
        error={act.error}
        same={{
          cli: command("token mint", [["workspace", path], ["max-uses", uses || 1], ["ttl", ttl], ["channel", channel === "stable" ? "" : channel], ["require-approval", approval], ["host-label", Object.entries(hostLabels).map(([k, v]) => `${k}=${v}`)], ["description", description]]),
          api: call(TokenService.method.mintToken, request),
        }}
        buttons={
          <div>
            <Button type="submit" kind="primary" busy={act.busy} disabled={length === undefined}>
              Mint token
            </Button>
          </div>
        }
      >
        <div className="grid gap-4 sm:grid-cols-3">
          <Field label="For how many hosts">{(at) => <Input {...at} type="number" min={1} max={1_000_000} required value={uses} onChange={(e) => setUses(e.target.value)} />}</Field>
          <Field label="Works for" hint="15m, 2h, 7d" error={length === undefined ? "write it like 15m, 2h or 7d" : undefined}>
            {(at) => <Input {...at} required value={ttl} onChange={(e) => setTtl(e.target.value)} />}
          </Field>
          <Field label="Channel">
            {(at) => (
              <Select {...at} value={channel} onChange={(e) => setChannel(e.target.value)}>
                <option value="stable">stable</option>
                <option value="preview">preview</option>
              </Select>
            )}
          </Field>
        </div>
        <Field label="Labels that its hosts get" hint="key=value, with spaces between">
          {(at) => <Input {...at} value={labels} placeholder="env=prod role=web" onChange={(e) => setLabels(e.target.value)} />}
        </Field>
        <Field label="What it is for" hint="a ticket, an environment, an owner">
          {(at) => <Input {...at} value={description} maxLength={500} onChange={(e) => setDescription(e.target.value)} />}
        </Field>
        <label className="flex items-center gap-2">
          <input type="checkbox" name="approval" checked={approval} onChange={(e) => setApproval(e.target.checked)} />
          Hosts wait until somebody approves them
        </label>
      </Form>
    </Card>
  );
}

function Run({ minted, again }: { minted: MintTokenResponse; again: () => void }) {
  const token = minted.token!;
  const [shown, setShown] = useState(false);
  return (
    <>
      <Card title="2. Run this on each server, as root">
        <div className="flex max-w-3xl flex-col gap-3">
          <p>
            The token is shown <strong>once</strong>. It enrols {token.maxUses === 1 ? "one host" : `${token.maxUses} hosts`} until it expires <Ago at={token.expiresAt} />.
          </p>
          <div className="flex items-center gap-2">
            <code aria-label="token" className="min-w-0 flex-1 truncate rounded-md border border-line bg-sunk px-3 py-1.5 font-mono text-[12.5px]">
              {shown ? minted.secret : `${minted.secret.slice(0, 12)}${"•".repeat(24)}`}
            </code>
            <Button onClick={() => setShown(!shown)}>{shown ? "Hide" : "Show"}</Button>
          </div>
          <CopyOnce secret={minted.secret} />
          <p className="text-soft">Paste the token when it asks; it then stands in no process list and no shell history:</p>
          <Command text={`read -rsp 'token: ' LOOPBACK_TOKEN && export LOOPBACK_TOKEN && ${minted.installCommand}`} label="install command" />
        </div>
      </Card>
      <Arrivals token={token.id} wanted={token.maxUses} />
      <div>
        <Button onClick={again}>Mint another</Button>
      </div>
    </>
  );
}

function CopyOnce({ secret }: { secret: string }) {
  const [done, setDone] = useState(false);
  return (
    <Button className="self-start" onClick={() => void navigator.clipboard.writeText(secret).then(() => setDone(true))}>
      {done ? "Token copied" : "Copy token"}
    </Button>
  );
}

const steps = ["enrolled", "linked", "configured", "managed"] as const;

function reached(h: Host): number {
  if (h.state === "managed") return 4;
  if (h.sections.some((s) => s.status === "applied")) return 3;
  if (h.lastSeenAt) return 2;
  return 1;
}

/** Hosts of this token as they come, by a watch of its own. */
function Arrivals({ token, wanted }: { token: string; wanted: number }) {
  const [hosts, setHosts] = useState<Map<string, Host>>(new Map());
  const began = useRef(Date.now());
  useEffect(() => {
    const stop = new AbortController();
    const follow = async () => {
      while (!stop.signal.aborted) {
        try {
          for await (const e of api.hosts.watchHosts({}, { signal: stop.signal })) {
            const h = e.event.case === "changed" ? e.event.value.host : undefined;
            if (h && h.tokenId === token) setHosts((old) => new Map(old).set(h.id, h));
          }
        } catch {
          // opened anew below; the frame says when the control plane is away
        }
        await new Promise((go) => setTimeout(go, 1000));
      }
    };
    void follow();
    return () => stop.abort();
  }, [token]);
  const all = [...hosts.values()];
  const managed = all.filter((h) => h.state === "managed").length;
  return (
    <Card title={`3. Watch ${wanted === 1 ? "it" : "them"} arrive`} flush>
      {all.length === 0 ? (
        <div className="flex items-center gap-3 px-4 py-6 text-soft">
          <span aria-hidden className="size-2.5 animate-pulse rounded-full bg-accent" />
          <span role="status">Waiting for the first host. Nothing to do here: it appears by itself.</span>
        </div>
      ) : (
        <ul aria-live="polite" className="divide-y divide-line/70">
          {all.map((h) => {
            const at = reached(h);
            return (
              <li key={h.id} className="flex flex-col gap-2 px-4 py-3">
                <div className="flex items-center gap-3">
                  <Link to={paths.host(h.id) as never} className="min-w-0 flex-1 truncate font-medium hover:underline">
                    {h.name}
                  </Link>
                  <State of={h.state} reason={h.reason} />
                </div>
                <ol className="flex flex-wrap gap-x-4 gap-y-1 text-[12px]">
                  {steps.map((s, i) => (
                    <li key={s} className={cx("flex items-center gap-1", i < at ? "text-good" : "text-soft")}>
                      <span aria-hidden>{i < at ? "✓" : "○"}</span>
                      {s}
                      <span className="sr-only">{i < at ? "done" : "to come"}</span>
                    </li>
                  ))}
                </ol>
                {h.state !== "managed" && <p className="text-[12px] text-soft">{h.reason || lookOf(h.state).means}</p>}
                {h.state === "pending" && (
                  <p className="text-[12px]">
                    It waits for approval:{" "}
                    <Link to={paths.host(h.id) as never} className="text-accent underline">
                      look at it and approve it
                    </Link>
                  </p>
                )}
              </li>
            );
          })}
        </ul>
      )}
      {managed > 0 && managed >= wanted && <p className="border-t border-line px-4 py-2 text-good">All {wanted === 1 ? "" : `${wanted} `}managed, {formatDuration(Math.round((Date.now() - began.current) / 1000))} after the token was minted.</p>}
      <p className="border-t border-line px-4 py-2 text-[12px] text-soft">
        Nothing comes? The installer names what is in its way; <code className="font-mono">loopback-agent doctor</code> on the server says more. The token's refusals are in its warnings.
      </p>
    </Card>
  );
}
