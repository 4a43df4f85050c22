// One version of a saved command: what it does, who saved and approved it, and the versions before and after it.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { commands as api } from "../../api/commands";
import { CommandService, type SavedCommand } from "../../api/gen/loopback/v1/command_pb";
import { command } from "../../api/shell";
import { usePages } from "../../app/list";
import { paths } from "../../app/paths";
import { usePlace } from "../../app/place";
import { useSession } from "../../app/session";
import { Ago, Button, Card, Empty, Facts, Page, Problem, State, Waiting } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { Table, unread, type Column } from "../../ui/table";
import { Script, WhatItRuns } from "./parts";
import { RunSaved } from "./runsaved";
import { SaveForm } from "./saveform";

type Doing = "run" | "change" | "approve" | "remove";

export function SavedCommandPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { who, why } = useSession();
  const { places } = usePlace();
  const navigate = useNavigate();
  const [doing, setDoing] = useState<Doing>();
  const one = useQuery({ queryKey: ["saved commands", "one", id], queryFn: () => api.getCommand({ command: id }), retry: false });
  const c = one.data;
  const workspace = c?.scope?.workspaceId ?? "";
  const versions = usePages(["saved commands", "versions", workspace, c?.name], (token) => (c ? api.listCommands({ workspace, name: c.name, page: { size: 100, token } }) : Promise.resolve({ items: [], nextPageToken: "" })));
  if (!c) {
    return (
      <Page title="Saved command">
        {one.error ? <Problem error={one.error} retry={() => void one.refetch()} /> : <Waiting />}
        <Link to={paths.savedCommands} className="text-accent hover:underline">
          To all saved commands
        </Link>
      </Page>
    );
  }
  const rows = versions.rows === unread ? versions.rows : versions.rows.filter((v) => v.name === c.name && v.scope?.workspaceId === workspace); // until its own have come, another's are there
  const approved = rows.find((v) => v.state === "approved");
  const own = who.principalId !== "" && c.savedBy === who.principalId ? "nobody approves a command that they saved themselves" : "";
  const columns: Column<SavedCommand>[] = [
    {
      key: "version",
      head: "Version",
      width: "minmax(6rem,1fr)",
      cell: (v) =>
        v.id === c.id ? (
          <span aria-current="true" className="font-medium">
            {v.version} (this one)
          </span>
        ) : (
          <Link to={paths.savedCommand(v.id) as never} className="text-accent hover:underline">
            {v.version}
          </Link>
        ),
    },
    { key: "state", head: "State", width: "7rem", cell: (v) => <State kind="command" of={v.state} /> },
    { key: "by", head: "Saved by", width: "minmax(7rem,1fr)", narrow: "hide", cell: (v) => <span title={v.savedByName}>{v.savedByName}</span> },
    { key: "saved", head: "Saved", width: "6.5rem", narrow: "hide", cell: (v) => <Ago at={v.createdAt} /> },
    { key: "approver", head: "Approved by", width: "minmax(7rem,1fr)", cell: (v) => (v.approvedByName ? <span title={v.approvedByName}>{v.approvedByName}</span> : <span className="text-soft">nobody</span>) },
    { key: "approved", head: "Approved", width: "6.5rem", narrow: "hide", cell: (v) => <Ago at={v.approvedAt} /> },
  ];
  return (
    <Page
      title={c.name}
      about={
        <span className="flex flex-wrap items-center gap-x-3 gap-y-1">
          <State kind="command" of={c.state} />
          <span>version {c.version}</span>
          {c.description && <span className="wrap-anywhere">{c.description}</span>}
          {approved && approved.id !== c.id && (
            <span>
              Version{" "}
              <Link to={paths.savedCommand(approved.id) as never} className="text-accent underline">
                {approved.version}
              </Link>{" "}
              is what is run.
            </span>
          )}
        </span>
      }
      actions={
        <>
          <Button kind={c.state === "approved" ? "primary" : "plain"} why={why("commands.run") || (c.state === "approved" ? "" : c.state === "pending" ? "nobody has approved this version yet" : "this version was replaced: open the one that is run")} onClick={() => setDoing("run")}>
            Run it
          </Button>
          {c.state === "pending" && (
            <Button kind="primary" why={why("commands.approve") || own} onClick={() => setDoing("approve")}>
              Approve
            </Button>
          )}
          <Button why={why("commands.save")} onClick={() => setDoing("change")}>
            Change
          </Button>
          <Button kind="danger" why={why("commands.delete")} onClick={() => setDoing("remove")}>
            Remove
          </Button>
        </>
      }
    >
      <div className="grid items-start gap-4 xl:grid-cols-2">
        <Card title="What it runs">
          <WhatItRuns of={c.command} />
        </Card>
        <div className="flex min-w-0 flex-col gap-4">
          <Card title="Parameters" flush>
            {c.parameters.length === 0 ? (
              <p className="px-4 py-3 text-soft">It has none.</p>
            ) : (
              <div className="overflow-x-auto" tabIndex={0} role="region" aria-label="parameters">
                <table className="w-full text-left">
                  <thead className="text-[12px] text-soft">
                    <tr className="border-b border-line">
                      <th className="px-4 py-2 font-normal">Name</th>
                      <th className="px-2 font-normal">Its whole value matches</th>
                      <th className="px-4 font-normal">For</th>
                    </tr>
                  </thead>
                  <tbody>
                    {c.parameters.map((p) => (
                      <tr key={p.name} className="border-b border-line/70 last:border-0">
                        <th scope="row" className="px-4 py-2 font-mono text-[12.5px] font-medium">{`{${p.name}}`}</th>
                        <td className="px-2 font-mono text-[12.5px] wrap-anywhere">{p.pattern}</td>
                        <td className="px-4 text-soft wrap-anywhere">{p.description}</td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            )}
          </Card>
          <Card title="About it">
            <Facts
              of={[
                ["Saved", <span key="s">by {c.savedByName || c.savedBy}, <Ago at={c.createdAt} /></span>],
                ["Approved", c.approvedAt && <span key="a">by {c.approvedByName || c.approvedBy}, <Ago at={c.approvedAt} /></span>],
                ["Workspace", places.find((p) => p.id === workspace)?.label ?? workspace],
                ["Id", <span key="i" className="font-mono text-[12.5px]">{c.id}</span>],
              ]}
            />
          </Card>
        </div>
      </div>
      <Card title="Versions and approvals" flush>
        {versions.error ? (
          <div className="p-3">
            <Problem error={versions.error} retry={versions.again} />
          </div>
        ) : versions.pending ? (
          <Waiting rows={2} />
        ) : (
          <Table label="versions" columns={columns} rows={rows} id={(v) => v.id} more={versions.more} open={(v) => void navigate({ to: paths.savedCommand(v.id) as never })} empty={<Empty title="There is no version any more" />} />
        )}
      </Card>
      {doing === "run" && <RunSaved c={c} close={() => setDoing(undefined)} />}
      {doing === "change" && <SaveForm before={c} close={() => setDoing(undefined)} />}
      {doing === "approve" && <Approve c={c} now={approved} close={() => setDoing(undefined)} />}
      {doing === "remove" && <Remove c={c} close={() => setDoing(undefined)} />}
    </Page>
  );
}

/** What is approved, beside what it takes the place of. */
function Approve({ c, now, close }: { c: SavedCommand; now: SavedCommand | undefined; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const request = { command: c.id };
  return (
    <FormDialog
      title={`Approve version ${c.version} of ${c.name}?`}
      wide
      close={close}
      act={act}
      label="Approve"
      submit={() =>
        void act.run(() => api.approveCommand(request)).then((done) => {
          void queries.invalidateQueries({ queryKey: ["saved commands"] });
          if (done) close();
        })
      }
      same={{ cli: command(`command approve ${c.id}`), api: call(CommandService.method.approveCommand, request) }}
    >
      <p>
        From then on whoever holds <code className="font-mono text-[12.5px]">commands.run</code> on a host has it run there as <strong>{c.command?.user || "root"}</strong>.
      </p>
      {now && (
        <>
          <p className="text-soft">What is run now, version {now.version}, which it replaces:</p>
          <Script of={now.command} label="what is run now" />
          <p className="text-soft">What is run then:</p>
        </>
      )}
      <Script of={c.command} label="what is approved" />
      {c.parameters.length > 0 && <Facts of={c.parameters.map((p) => [`{${p.name}}`, <span key={p.name} className="font-mono text-[12.5px]">{p.pattern}</span>])} />}
    </FormDialog>
  );
}

function Remove({ c, close }: { c: SavedCommand; close: () => void }) {
  const queries = useQueryClient();
  const navigate = useNavigate();
  const { places } = usePlace();
  const act = useAct();
  const request = { command: c.id };
  return (
    <FormDialog
      title={`Remove ${c.name}?`}
      close={close}
      act={act}
      kind="danger"
      label="Remove"
      submit={() =>
        void act.run(() => api.deleteCommand(request)).then((done) => {
          if (!done) return;
          void queries.invalidateQueries({ queryKey: ["saved commands"] });
          close();
          void navigate({ to: paths.savedCommands as never });
        })
      }
      same={{ cli: command(`command delete ${c.name}`, [["workspace", places.length > 1 ? places.find((p) => p.id === c.scope?.workspaceId)?.path : ""]]), api: call(CommandService.method.deleteCommand, request) }}
    >
      <p>All of its versions go, and nobody can run it any more. What was run of it stays, and so does what the audit log says of it.</p>
    </FormDialog>
  );
}
