// One host: where it stands, what it is, what it should be and what it has, and what was done to it.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { api } from "../api/client";
import { formatDuration, seconds } from "../api/duration";
import { HostService, type Host } from "../api/gen/loopback/v1/host_pb";
import { quoted } from "../api/shell";
import { paths } from "../app/paths";
import { useSession } from "../app/session";
import { Ago, Button, Card, Facts, Field, Input, Labels, Page, Problem, State, Waiting, linkButton } from "../ui/basics";
import { Both, call, FormDialog, useAct } from "../ui/form";
import { lookOf } from "../ui/states";
import { HostActs, type Act } from "./hostacts";
import { Copies } from "./hostcopies";
import { DiagnoseDialog } from "./hostdiagnose";
import { RestartDialog } from "./hostrestart";
import { SettleDialog } from "./hostsettle";

export function HostPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const queries = useQueryClient();
  const { why } = useSession();
  const [act, setAct] = useState<Act>();
  const [labelling, setLabelling] = useState(false);
  const [settling, setSettling] = useState(false);
  const [diagnosing, setDiagnosing] = useState(false);
  const host = useQuery({ queryKey: ["hosts", "one", id], queryFn: () => api.hosts.getHost({ host: id }), retry: false });
  const h = host.data;
  if (host.error && !h) {
    return (
      <Page title="Host">
        <Problem error={host.error} retry={() => void host.refetch()} />
        <Link to={paths.hosts} className="text-accent hover:underline">
          To all hosts
        </Link>
      </Page>
    );
  }
  if (!h) {
    return (
      <Page title="Host">
        <Waiting />
      </Page>
    );
  }
  const cloned = h.copies.some((c) => c.verdict === "undecided"); // its lock ends by a decision on the copies alone
  return (
    <Page
      title={h.name}
      about={
        <span className="flex flex-wrap items-center gap-x-3 gap-y-1">
          <State of={h.state} />
          <span className="line-clamp-4 wrap-anywhere" title={h.reason}>
            {h.reason || lookOf(h.state).means}
          </span>
          <span>
            since <Ago at={h.since} />
          </span>
        </span>
      }
      actions={
        <>
          {h.state === "pending" && (
            <Button kind="primary" why={why("hosts.approve")} onClick={() => setAct("approve")}>
              Approve
            </Button>
          )}
          {h.sections.some((s) => s.frozen) && (
            <Button kind="primary" why={why("hosts.settle")} onClick={() => setSettling(true)}>
              Settle
            </Button>
          )}
          <Button why={why("hosts.label")} onClick={() => setLabelling(true)}>
            Labels
          </Button>
          {h.state !== "removed" && h.state !== "unmanaged" && (
            <Link to={paths.shells as never} search={{ host: h.id } as never} {...linkButton("plain", why("shell_sessions.read"))}>
              Shells
            </Link>
          )}
          {h.state !== "removed" && h.state !== "unmanaged" && (
            <Button why={why("hosts.diagnose")} onClick={() => setDiagnosing(true)}>
              Diagnose
            </Button>
          )}
          {cloned ? null : h.state === "quarantined" ? (
            <Button why={why("hosts.release")} onClick={() => setAct("release")}>
              Release
            </Button>
          ) : (
            h.state !== "removed" &&
            h.state !== "unmanaged" && (
              <Button why={why("hosts.quarantine")} onClick={() => setAct("quarantine")}>
                Quarantine
              </Button>
            )
          )}
          {h.state !== "removed" && (
            <Button kind="danger" why={why("hosts.remove")} onClick={() => setAct("remove")}>
              Remove
            </Button>
          )}
        </>
      }
    >
      {Object.keys(h.labels).length > 0 && <Labels of={h.labels} />}
      <Copies
        h={h}
        changed={() => {
          void queries.invalidateQueries({ queryKey: ["hosts"] });
          void queries.invalidateQueries({ queryKey: ["audit"] });
        }}
      />
      <div className="grid items-start gap-4 xl:grid-cols-2">
        <Configuration h={h} />
        <Agent h={h} />
        <Machine h={h} />
        <Timeline id={h.id} />
      </div>
      {act && (
        <HostActs
          act={act}
          hosts={[h]}
          close={() => {
            setAct(undefined);
            void queries.invalidateQueries({ queryKey: ["hosts"] });
            void queries.invalidateQueries({ queryKey: ["audit"] });
          }}
        />
      )}
      {diagnosing && <DiagnoseDialog h={h} close={() => setDiagnosing(false)} />}
      {labelling && <LabelDialog h={h} close={() => setLabelling(false)} />}
      {settling && (
        <SettleDialog
          h={h}
          close={() => setSettling(false)}
          done={(after) => {
            queries.setQueryData(["hosts", "one", h.id], after);
            void queries.invalidateQueries({ queryKey: ["audit"] });
            setSettling(false);
          }}
        />
      )}
    </Page>
  );
}

function Configuration({ h }: { h: Host }) {
  const { why } = useSession();
  const [restarting, setRestarting] = useState<string>();
  const unhealthy = h.modules.filter((m) => !m.healthy);
  const bare = h.modules.filter((m) => h.sections.every((s) => s.name !== m.module)); // without a section of their own yet
  const restart = (module: string) =>
    h.state !== "removed" && (
      <Button why={why("hosts.restart_module")} aria-label={`Restart ${module}`} onClick={() => setRestarting(module)}>
        Restart
      </Button>
    );
  return (
    <Card title="Configuration" flush>
      {restarting && <RestartDialog h={h} module={restarting} close={() => setRestarting(undefined)} />}
      {h.sections.length + bare.length === 0 ? (
        <p className="px-4 py-3 text-soft">It has not been given any yet.</p>
      ) : (
        <table className="w-full text-left">
          <thead className="text-[12px] text-soft">
            <tr className="border-b border-line">
              <th className="px-4 py-2 font-normal">Section</th>
              <th className="px-2 font-normal">Status</th>
              <th className="px-2 font-normal">Has</th>
              <th className="px-2 font-normal max-sm:hidden">Should have</th>
              <th className="px-2 font-normal max-sm:hidden">Applied</th>
              <th className="px-4">
                <span className="sr-only">Acts</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {h.sections.map((s) => (
              <tr key={s.name} className="border-b border-line/70 last:border-0">
                <th scope="row" className="px-4 py-2 font-medium wrap-anywhere">
                  {s.name}
                  {s.message && (
                    <span className="block max-h-32 overflow-auto text-[12px] font-normal text-soft wrap-anywhere" tabIndex={0}>
                      {s.message}
                    </span>
                  )}
                </th>
                <td className="px-2">
                  <State of={s.frozen ? "frozen" : s.status} />
                </td>
                <td className="px-2 font-mono text-[12.5px]">{s.revision || "–"}</td>
                <td className="px-2 font-mono text-[12.5px] max-sm:hidden">{s.desiredRevision || "–"}</td>
                <td className="px-2 text-soft max-sm:hidden">
                  <Ago at={s.appliedAt} />
                </td>
                <td className="px-4 py-1 text-right">{restart(s.name)}</td>
              </tr>
            ))}
            {bare.map((m) => (
              <tr key={m.module} className="border-b border-line/70 last:border-0">
                <th scope="row" colSpan={5} className="px-4 py-2 font-medium wrap-anywhere">
                  {m.module} <span className="text-[12px] font-normal text-soft">has not been given anything yet</span>
                </th>
                <td className="px-4 py-1 text-right">{restart(m.module)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {unhealthy.map((m) => (
        <p key={m.module} className="border-t border-line px-4 py-2 text-bad wrap-anywhere">
          the module {m.module} is unhealthy: {m.message}
        </p>
      ))}
      {h.troubles.map((t) => (
        <p key={t.code} className={"border-t border-line px-4 py-2 wrap-anywhere " + (t.ongoing ? "text-bad" : "text-soft")}>
          {t.ongoing ? "in the way since " : "was in the way "}
          <Ago at={t.at} />: <span className="font-mono text-[12.5px]">{t.code}</span> {t.message}
        </p>
      ))}
    </Card>
  );
}

function Agent({ h }: { h: Host }) {
  const allowed = h.ceiling ? [...(["exec", "shell", "files", "power"] as const).filter((k) => h.ceiling![k]), ...h.ceiling.modules.map((m) => `module ${m}`)] : [];
  return (
    <Card title="Agent">
      <Facts
        of={[
          ["Id", <span key="id" className="font-mono text-[12.5px]">{h.id}</span>],
          ["Version", h.agentVersion && <span className="font-mono text-[12.5px]">{`${h.agentVersion} (${h.channel})`}</span>],
          ["Last seen", <Ago key="seen" at={h.lastSeenAt} />],
          ["Enrolled", h.enrolledAt && <span><Ago at={h.enrolledAt} />{h.enrolledFrom && ` from ${h.enrolledFrom}`}</span>],
          ["Token", h.tokenId && <span className="font-mono text-[12.5px]">{h.tokenId}</span>],
          ["Identity key", h.keyFingerprint && <span className="font-mono text-[12px] break-all">{`generation ${h.keyGeneration}, ${h.keyFingerprint.slice(0, 24)}…`}</span>],
          ["This host allows", h.agentVersion && (allowed.length ? allowed.join(", ") : "configuration only")],
          ["Removed after", h.ephemeralTtl && `${formatDuration(seconds(h.ephemeralTtl) ?? 0)} offline`],
          ["Known by", h.provider],
          ["Address", h.address],
        ]}
      />
    </Card>
  );
}

function bytes(n: bigint): string {
  const gib = Number(n) / 2 ** 30;
  return gib >= 1 ? `${gib.toFixed(gib < 10 ? 1 : 0)} GiB` : `${Math.round(Number(n) / 2 ** 20)} MiB`;
}

function Machine({ h }: { h: Host }) {
  const i = h.inventory;
  return (
    <Card title="Machine">
      {!i ? (
        <p className="text-soft">It has not said what it is.</p>
      ) : (
        <Facts
          of={[
            ["Host name", i.hostName],
            ["System", i.osName],
            ["Kernel", `${i.kernel} ${i.architecture}`],
            ["Processors", i.cpus > 0 && (i.cpuModel ? `${i.cpus} × ${i.cpuModel}` : String(i.cpus))],
            ["Memory", i.memoryBytes > 0n && bytes(i.memoryBytes)],
            ["Virtualisation", i.virtualisation],
            ["Up for", h.uptime && formatDuration(Math.floor((seconds(h.uptime) ?? 0) / 60) * 60)],
            ...i.disks.map((d): [string, string] => ["Disk", `${d.mount} ${d.device} ${d.fileSystem} ${bytes(d.sizeBytes)}`]),
            ...i.addresses.map((a): [string, string] => ["Address", `${a.prefix} on ${a.interface}`]),
          ]}
        />
      )}
    </Card>
  );
}

function Timeline({ id }: { id: string }) {
  const { may } = useSession();
  const entries = useQuery({ queryKey: ["audit", "target", id], enabled: may("audit.read"), queryFn: () => api.audit.listEntries({ target: id, page: { size: 30 } }) });
  return (
    <Card title="What was done" flush>
      {!may("audit.read") ? (
        <p className="px-4 py-3 text-soft">The audit log is not yours to read: it needs audit.read.</p>
      ) : entries.error ? (
        <div className="p-3">
          <Problem error={entries.error} retry={() => void entries.refetch()} />
        </div>
      ) : entries.isPending ? (
        <Waiting rows={3} />
      ) : (
        <ol className="max-h-96 divide-y divide-line/70 overflow-auto">
          {entries.data.items.map((e) => (
            <li key={e.id} className="grid grid-cols-[1fr_auto] gap-x-3 px-4 py-2">
              <span className="min-w-0 truncate">
                <span className="font-mono text-[12.5px]">{e.action}</span> <span className="text-soft">by {e.actor?.name || e.actor?.kind}</span>
              </span>
              <span className="text-[12px] text-soft">
                <Ago at={e.at} />
              </span>
              {e.reason && <span className="col-span-2 text-[12px] text-soft wrap-anywhere">{e.reason}</span>}
            </li>
          ))}
          {entries.data.items.length === 0 && <li className="px-4 py-3 text-soft">Nothing is recorded.</li>}
        </ol>
      )}
    </Card>
  );
}

function asText(labels: Record<string, string>, without: ReadonlySet<string>): string {
  return Object.entries(labels)
    .filter(([k]) => !without.has(k))
    .map(([k, v]) => `${k}=${v}`)
    .sort()
    .join(" ");
}

/** What is sent is the difference to what the form began with: what others do to other labels meanwhile stays. Where they changed the very same, both are shown. */
function LabelDialog({ h, close }: { h: Host; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const forced = new Set(h.forcedLabels);
  const [base, setBase] = useState(h.labels);
  const [text, setText] = useState(() => asText(h.labels, forced));
  const wanted = Object.fromEntries(
    text
      .split(/[\s,]+/)
      .filter(Boolean)
      .map((pair) => {
        const at = pair.indexOf("=");
        return at < 0 ? [pair, ""] : [pair.slice(0, at), pair.slice(at + 1)];
      }),
  ) as Record<string, string>;
  const set = Object.fromEntries(Object.entries(wanted).filter(([k, v]) => base[k] !== v));
  const remove = Object.keys(base).filter((k) => !(k in wanted) && !forced.has(k));
  const both = [...Object.keys(set), ...remove].filter((k) => h.labels[k] !== base[k] && h.labels[k] !== wanted[k]);
  const request = { host: h.id, set, remove };
  const words = [...Object.entries(set).map(([k, v]) => `${k}=${v}`), ...remove.map((k) => `${k}-`)];
  const submit = () =>
    void act.run(async () => {
      queries.setQueryData(["hosts", "one", h.id], await api.hosts.labelHost(request));
      void queries.invalidateQueries({ queryKey: ["hosts", "list"] });
      close();
    });
  return (
    <FormDialog title={`Labels of ${h.name}`} close={close} act={act} label={both.length > 0 ? "Save mine over it" : "Save"} disabled={words.length === 0} submit={submit} same={{ cli: `loopback host label ${h.id} ${words.map(quoted).join(" ") || "KEY=VALUE"}`, api: call(HostService.method.labelHost, request) }}>
      <Field label="Labels" hint={forced.size ? `key=value, with spaces between. Forced by its token: ${[...forced].join(", ")}` : "key=value, with spaces between"}>
        {(at) => <Input {...at} autoFocus value={text} onChange={(e) => setText(e.target.value)} placeholder="env=prod role=web" />}
      </Field>
      {both.length > 0 && (
        <Both of={both.map((k) => ({ name: k, theirs: h.labels[k], mine: wanted[k] }))} none="not there">
          <Button
            onClick={() => {
              const kept = { ...wanted };
              for (const k of both) {
                const theirs = h.labels[k];
                if (theirs === undefined) delete kept[k];
                else kept[k] = theirs;
              }
              setBase((old) => ({ ...old, ...Object.fromEntries(both.map((k) => [k, h.labels[k]]).filter(([, v]) => v !== undefined)) }));
              setText(asText(kept, forced));
            }}
          >
            Take theirs
          </Button>
        </Both>
      )}
    </FormDialog>
  );
}
