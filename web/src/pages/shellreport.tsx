// Who has shells where, how often and why, and which commands recur: where automation is missing.
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { formatDuration, seconds } from "../api/duration";
import type { SessionReportCommand, SessionReportHost, SessionReportPerson } from "../api/gen/loopback/v1/sessionreview_pb";
import { sessionReviews as api } from "../api/sessionreviews";
import { command } from "../api/shell";
import { shells } from "../app/pages";
import { usePlace } from "../app/place";
import { Tabs } from "../app/tabs";
import { Ago, Card, Command, Empty, Page, Problem, Select, Waiting } from "../ui/basics";
import { Table, type Column } from "../ui/table";

const spans = { "7": "Last 7 days", "30": "Last 30 days", "90": "Last 90 days", "365": "Last year" } as const;

const long = (d: Parameters<typeof seconds>[0]) => formatDuration(Math.max(60, Math.round((seconds(d) ?? 0) / 60) * 60));

export function ShellReport() {
  const { place, workspace } = usePlace();
  const search = useSearch({ strict: false }) as { days?: string };
  const navigate = useNavigate();
  const days = search.days && search.days in spans ? search.days : "30";
  const report = useQuery({
    queryKey: ["shells", "report", workspace, days],
    queryFn: () => api.reportSessions({ workspace, since: timestampFromDate(new Date(Date.now() - Number(days) * 86400_000)) }),
    placeholderData: (old) => old,
  });
  const r = report.data;
  const people: Column<SessionReportPerson>[] = [
    { key: "who", head: "Who", width: "minmax(8rem,1fr)", cell: (p) => p.principalName },
    { key: "sessions", head: "Sessions", width: "6rem", cell: (p) => <span className="tabular-nums">{p.sessions}</span> },
    { key: "hosts", head: "Hosts", width: "5rem", cell: (p) => <span className="tabular-nums">{p.hosts}</span> },
    { key: "time", head: "Time", width: "6rem", narrow: "hide", cell: (p) => long(p.time) },
    { key: "last", head: "Last", width: "7rem", narrow: "hide", cell: (p) => <Ago at={p.lastAt} /> },
    { key: "why", head: "Mostly for", width: "minmax(10rem,3fr)", narrow: "hide", cell: (p) => <span title={p.reasons.map((w) => `${w.text} (${w.times})`).join("\n")}>{p.reasons.map((w) => (w.times > 1 ? `${w.text} (${w.times})` : w.text)).join("; ")}</span> },
  ];
  const hosts: Column<SessionReportHost>[] = [
    { key: "host", head: "Host", width: "minmax(8rem,1fr)", cell: (h) => h.hostName },
    { key: "sessions", head: "Sessions", width: "6rem", cell: (h) => <span className="tabular-nums">{h.sessions}</span> },
    { key: "people", head: "People", width: "5rem", cell: (h) => <span className="tabular-nums">{h.people}</span> },
    { key: "time", head: "Time", width: "6rem", narrow: "hide", cell: (h) => long(h.time) },
    { key: "last", head: "Last", width: "7rem", narrow: "hide", cell: (h) => <Ago at={h.lastAt} /> },
  ];
  const commands: Column<SessionReportCommand>[] = [
    { key: "command", head: "Command", width: "minmax(12rem,3fr)", cell: (c) => <span className="font-mono text-[12.5px]" title={c.command}>{c.command}</span> },
    { key: "times", head: "Times", width: "5rem", cell: (c) => <span className="tabular-nums">{c.times}</span> },
    { key: "shells", head: "Shells", width: "5rem", narrow: "hide", cell: (c) => <span className="tabular-nums">{c.sessions}</span> },
    { key: "runs", head: "Runs", width: "5rem", narrow: "hide", cell: (c) => <span className="tabular-nums">{c.runs}</span> },
    { key: "people", head: "People", width: "5rem", cell: (c) => <span className="tabular-nums">{c.people}</span> },
    { key: "hosts", head: "Hosts", width: "5rem", narrow: "hide", cell: (c) => <span className="tabular-nums">{c.hosts}</span> },
  ];
  return (
    <Page title="Report on shells" about="Each shell is something that no check, command or automation does yet. What recurs here is what to build next.">
      <Tabs of={shells} />
      <Select aria-label="time" value={days} onChange={(e) => void navigate({ to: ".", search: ((old: object) => ({ ...old, days: e.target.value === "30" ? undefined : e.target.value })) as never, replace: true })} className="w-40!">
        {Object.entries(spans).map(([value, label]) => (
          <option key={value} value={value}>
            {label}
          </option>
        ))}
      </Select>
      {report.error && <Problem error={report.error} retry={() => void report.refetch()} />}
      {report.isPending ? (
        <Card>
          <Waiting />
        </Card>
      ) : r && r.sessions + r.runs > 0 ? (
        <>
          <p className="text-soft">
            {r.sessions} {r.sessions === 1 ? "session" : "sessions"} and {r.runs} {r.runs === 1 ? "run" : "runs"} of commands.{r.partial && " There is more than is shown: choose a shorter time, or one workspace."}
          </p>
          <Card title="Commands that recur" flush>
            <Table label="commands that recur" columns={commands} rows={r.commands} id={(c) => c.command} empty={<Empty title="No command was given twice" />} />
          </Card>
          <Card title="Who" flush>
            <Table label="who had shells" columns={people} rows={r.people} id={(p) => p.principalId} empty={<Empty title="Nobody had a shell" />} />
          </Card>
          <Card title="Where" flush>
            <Table label="where shells were" columns={hosts} rows={r.hosts} id={(h) => h.hostId} empty={<Empty title="No host had a shell" />} />
          </Card>
        </>
      ) : (
        r && (
          <Card>
            <Empty title="Nobody had a shell, and nothing was run">
              <p>In this time, as far as you may see.</p>
            </Empty>
          </Card>
        )
      )}
      <Command label="The same as a command" text={command("session report", [["for", `${days}d`], ["in-workspace", place?.path ?? ""]])} />
    </Page>
  );
}
