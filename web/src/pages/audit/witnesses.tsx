// The hosts that remember the audit log's checkpoints, what each holds, and the keys that the log was signed with.
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { api } from "../../api/client";
import { AuditService, type AuditCheckpoint, type AuditWitness } from "../../api/gen/loopback/v1/audit_pb";
import { command } from "../../api/shell";
import { audit } from "../../app/pages";
import { paths } from "../../app/paths";
import { spotOf, useSpots } from "../../app/spot";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Command, Dialog, Empty, Facts, Page, Problem, State, Waiting } from "../../ui/basics";
import { call, Same } from "../../ui/form";
import { Table, type Column } from "../../ui/table";

const look = 10_000; // what hosts remember follows the log's growth: nothing tells of each step

export function Witnesses() {
  const { called } = useSpots();
  const search = useSearch({ strict: false }) as { open?: string };
  const navigate = useNavigate();
  const set = (open?: string) => void navigate({ to: ".", search: ((old: object) => ({ ...old, open })) as never, replace: true });
  const list = useQuery({ queryKey: ["audit", "witnesses"], queryFn: () => api.audit.listWitnesses({}), refetchInterval: look });
  const latest = useQuery({ queryKey: ["audit", "checkpoint"], queryFn: () => api.audit.getCheckpoint({}), refetchInterval: look });
  const behind = (w: AuditWitness) => (latest.data && w.log === latest.data.log && latest.data.size > w.size ? latest.data.size - w.size : 0n);
  const columns: Column<AuditWitness>[] = [
    {
      key: "host",
      head: "Host",
      width: "minmax(9rem,1fr)",
      cell: (w) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => set(w.hostId)} title={w.hostName}>
          {w.hostName || w.hostId}
        </button>
      ),
    },
    { key: "state", head: "State", width: "7.5rem", cell: (w) => <State kind="witness" of={w.state} reason={w.message} /> },
    { key: "size", head: "Entries", width: "7rem", cell: (w) => <span className="tabular-nums">{w.size.toLocaleString()}</span> },
    { key: "behind", head: "Since then", width: "7rem", narrow: "hide", cell: (w) => <span className="text-soft tabular-nums">{behind(w) > 0n ? `${behind(w).toLocaleString()} more` : "none"}</span> },
    { key: "at", head: "Said so", width: "6.5rem", narrow: "hide", cell: (w) => <Ago at={w.rememberedAt} /> },
    { key: "where", head: "Where", width: "minmax(8rem,1fr)", narrow: "hide", cell: (w) => <span title={called(spotOf(w.scope))}>{called(spotOf(w.scope))}</span> },
    { key: "message", head: "It says", width: "minmax(9rem,2fr)", narrow: "hide", cell: (w) => <span className={w.state === "failed" ? "text-bad" : "text-soft"} title={w.message}>{w.message}</span> },
  ];
  const rows = list.data?.items ?? [];
  const shown = rows.find((w) => w.hostId === search.open);
  const refuse = rows.filter((w) => w.state === "failed").length;
  return (
    <Page title="Witnesses" about="Hosts that remember the audit log's checkpoints, and accept only one that the log grew into. What they hold is on their own disks, out of reach from here.">
      <Tabs of={audit} />
      {list.error && <Problem error={list.error} retry={() => void list.refetch()} />}
      {refuse > 0 && (
        <p role="alert" className="rounded-md border border-bad/40 bg-bad-wash px-3 py-2">
          <span className="font-medium text-bad">{refuse === 1 ? "One host refuses the log." : `${refuse.toLocaleString()} hosts refuse the log.`}</span> Either it was rewritten or put back, or what they remember is not what it was: see what each says, and keep its files.
        </p>
      )}
      <Card flush>
        {list.isPending ? (
          <Waiting rows={3} />
        ) : (
          <Table
            label="witnesses"
            columns={columns}
            rows={rows}
            id={(w) => w.hostId}
            open={(w) => set(w.hostId)}
            empty={
              <Empty title="No host remembers the log yet">
                <p>Three hosts of each workspace are chosen by themselves, of those whose agents can. Until then, only those who keep a checkpoint elsewhere can show that nothing was changed.</p>
              </Empty>
            }
          />
        )}
      </Card>
      <Card title="Keys that the log was signed with">{latest.isPending ? <Waiting rows={2} /> : latest.error ? <Problem error={latest.error} retry={() => void latest.refetch()} /> : latest.data && <Keys of={latest.data} />}</Card>
      {shown && <One w={shown} close={() => set()} />}
    </Page>
  );
}

/** The key now, and the handovers by which it came to be: each is signed by the key before and the key after. */
function Keys({ of }: { of: AuditCheckpoint }) {
  return (
    <div className="flex flex-col gap-4">
      <p>{of.handovers.length === 0 ? "One key signs it from its beginning. Whoever holds a copy that came another way compares it with this." : "Whoever trusts an earlier key is led to the one that signs now by the handovers: each is signed by both."}</p>
      <Labelled label="The key that signs now">
        <Command text={of.key} label="key" />
      </Labelled>
      {of.handovers.map((text, n) => (
        <Labelled key={text} label={`Handover ${(n + 1).toLocaleString()} of ${of.handovers.length.toLocaleString()}`}>
          <Command text={text} label={`handover ${n + 1}`} />
        </Labelled>
      ))}
      <Same cli={command("audit witnesses")} api={call(AuditService.method.listWitnesses, {})} />
    </div>
  );
}

function Labelled({ label, children }: { label: string; children: ReactNode }) {
  return (
    <div className="flex min-w-0 flex-col gap-1">
      <p className="text-[12px] text-soft">{label}</p>
      {children}
    </div>
  );
}

function One({ w, close }: { w: AuditWitness; close: () => void }) {
  const { called } = useSpots();
  return (
    <Dialog title={w.hostName || w.hostId} wide open close={close}>
      <Facts
        of={[
          ["State", <State key="s" kind="witness" of={w.state} />],
          ["It says", w.message],
          ["Log", w.log.toString()],
          ["Entries", w.size.toLocaleString()],
          ["Said so", <Ago key="a" at={w.rememberedAt} />],
          ["Where", called(spotOf(w.scope))],
          ["Host", <Link key="h" to={paths.host(w.hostId)} className="font-mono text-[12.5px] text-accent hover:underline">{w.hostId}</Link>],
        ]}
      />
      <Labelled label="The checkpoint that it was sent last">
        <Command text={w.checkpoint} label="checkpoint" />
      </Labelled>
      <Labelled label="To be sure, ask the host itself: this page says what it told the control plane">
        <Command text="loopback-agent status --checkpoint" />
      </Labelled>
      <div className="flex justify-end">
        <Button onClick={close}>Close</Button>
      </div>
    </Dialog>
  );
}
