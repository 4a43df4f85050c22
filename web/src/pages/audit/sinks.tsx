// Where the audit log is sent to, and how far each receiver is.
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { sinks as api } from "../../api/sinks";
import type { Sink } from "../../api/gen/loopback/v1/sink_pb";
import { usePages, useShown } from "../../app/list";
import { audit } from "../../app/pages";
import { useSession } from "../../app/session";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Empty, Page, Problem, State, Waiting } from "../../ui/basics";
import { Table, type Column } from "../../ui/table";
import { SinkDialog } from "./sink";
import { SinkForm } from "./sinkform";

export function Sinks() {
  const { why } = useSession();
  const search = useSearch({ strict: false }) as { open?: string };
  const navigate = useNavigate();
  const [making, setMaking] = useState(false);
  const set = (open?: string) => void navigate({ to: ".", search: ((old: object) => ({ ...old, open })) as never, replace: true });
  const list = usePages(["sinks", "list"], (token) => api.listSinks({ page: { size: 200, token } }));
  const columns: Column<Sink>[] = [
    {
      key: "name",
      head: "Name",
      width: "minmax(9rem,1fr)",
      cell: (s) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => set(s.id)} title={s.name}>
          {s.name}
        </button>
      ),
    },
    { key: "state", head: "State", width: "7rem", cell: (s) => <State of={s.state} reason={s.lastError} /> },
    { key: "kind", head: "Kind", width: "6rem", narrow: "hide", cell: (s) => s.kind },
    { key: "target", head: "To", width: "minmax(9rem,2fr)", narrow: "hide", cell: (s) => <span className="font-mono text-[12.5px]" title={s.target}>{s.target}</span> },
    { key: "lag", head: "Behind by", width: "6.5rem", cell: (s) => <span className={s.lag > 0n ? "tabular-nums" : "text-soft tabular-nums"}>{s.lag.toLocaleString()}</span> },
    { key: "dead", head: "Set aside", width: "6rem", narrow: "hide", cell: (s) => <span className={s.deadLetters > 0n ? "font-medium text-bad tabular-nums" : "text-soft tabular-nums"}>{s.deadLetters.toLocaleString()}</span> },
    { key: "delivered", head: "Last delivery", width: "7.5rem", narrow: "hide", cell: (s) => <Ago at={s.deliveredAt} /> },
    { key: "error", head: "Error", width: "minmax(9rem,2fr)", narrow: "hide", cell: (s) => s.failures > 0n && <span className="text-bad" title={s.lastError}>{s.lastError}</span> },
  ];
  const shown = useShown(list.rows, search.open, "sinks", (sink) => api.getSink({ sink }));
  return (
    <Page
      title="Sinks"
      about="Where the audit log is sent to, in order and without gaps."
      actions={
        <Button kind="primary" why={why("sinks.create")} onClick={() => setMaking(true)}>
          New sink
        </Button>
      }
    >
      <Tabs of={audit} />
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table
            label="sinks"
            columns={columns}
            rows={list.rows}
            id={(s) => s.id}
            more={list.more}
            open={(s) => set(s.id)}
            empty={
              <Empty title="The audit log goes nowhere else yet">
                <p>A sink sends it to a webhook, a syslog server, an OpenTelemetry collector or a file, so that it is also where nobody here can reach it.</p>
              </Empty>
            }
          />
        )}
      </Card>
      {making && <SinkForm close={() => setMaking(false)} />}
      {shown && <SinkDialog key={shown.id} listed={shown} close={() => set()} />}
    </Page>
  );
}
