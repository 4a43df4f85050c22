// What hosts may run: signed elsewhere, served here.
import { api } from "../api/client";
import type { Release } from "../api/gen/loopback/v1/release_pb";
import { usePages } from "../app/list";
import { Ago, Card, Command, Empty, Page, Problem, Waiting } from "../ui/basics";
import { Table, type Column } from "../ui/table";

const columns: Column<Release>[] = [
  { key: "program", head: "Program", width: "minmax(10rem,1fr)", cell: (r) => <span className="font-medium">{r.program}</span> },
  { key: "version", head: "Version", width: "8rem", cell: (r) => <span className="font-mono text-[12.5px]">{r.version}</span> },
  { key: "channel", head: "Channel", width: "7rem", cell: (r) => r.channel },
  { key: "published", head: "Published", width: "8rem", cell: (r) => <Ago at={r.publishedAt} /> },
  { key: "targets", head: "For", width: "minmax(10rem,2fr)", narrow: "hide", cell: (r) => <span title={r.targets.map((t) => `${t.path} ${t.sha256}`).join("\n")}>{[...new Set(r.targets.map((t) => `${t.os}-${t.architecture}`))].join(", ")}</span> },
];

export function Releases() {
  const list = usePages(["releases"], (token) => api.releases.listReleases({ page: { size: 200, token } }));
  return (
    <Page title="Releases" about="Hosts run only programs that you signed. The keys are not here.">
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table
            label="releases"
            columns={columns}
            rows={list.rows}
            id={(r) => r.id}
            more={list.more}
            empty={
              <Empty title="Nothing is published yet">
                <p>Where you keep the signing keys:</p>
                <Command text="loopback release publish --keys ~/release-keys --version VERSION bin/agents/VERSION" />
              </Empty>
            }
          />
        )}
      </Card>
    </Page>
  );
}
