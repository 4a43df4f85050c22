// Commands that one saved and another approved: what there is to be run, and what waits for approval.
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { commands as api } from "../../api/commands";
import type { SavedCommand } from "../../api/gen/loopback/v1/command_pb";
import { usePages } from "../../app/list";
import { commands } from "../../app/pages";
import { paths } from "../../app/paths";
import { usePlace } from "../../app/place";
import { useSession } from "../../app/session";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Empty, Input, Page, Problem, Select, State, Waiting } from "../../ui/basics";
import { Table, type Column } from "../../ui/table";
import { textOf } from "./parts";
import { SaveForm } from "./saveform";

const shows: Record<string, { label: string; asks: { current?: boolean; states?: string[] } }> = {
  current: { label: "What is run", asks: { current: true } },
  pending: { label: "Waits for approval", asks: { states: ["pending"] } },
  all: { label: "All versions", asks: {} },
};

export function SavedCommands() {
  const { workspace, places } = usePlace();
  const { why } = useSession();
  const search = useSearch({ strict: false }) as { show?: string; q?: string };
  const navigate = useNavigate();
  const [making, setMaking] = useState(false);
  const set = (change: object) => void navigate({ to: ".", search: ((old: object) => ({ ...old, ...change })) as never, replace: true });
  const show = search.show && shows[search.show] ? search.show : "current";
  const wanted = search.q ?? "";
  const list = usePages(["saved commands", "list", workspace, show, wanted], (token) => api.listCommands({ workspace, ...shows[show]!.asks, search: wanted, page: { size: 200, token } }));
  const columns: Column<SavedCommand>[] = [
    {
      key: "name",
      head: "Name",
      width: "minmax(9rem,1.2fr)",
      cell: (c) => (
        <Link to={paths.savedCommand(c.id) as never} title={[c.name, c.description].filter(Boolean).join(": ")} className="font-medium hover:underline">
          {c.name}
        </Link>
      ),
    },
    { key: "state", head: "State", width: "7rem", cell: (c) => <State kind="command" of={c.state} /> },
    { key: "version", head: "Version", width: "5rem", narrow: "hide", cell: (c) => <span className="tabular-nums">{c.version}</span> },
    {
      key: "runs",
      head: "Runs",
      width: "minmax(10rem,2fr)",
      narrow: "hide",
      cell: (c) => (
        <span dir="ltr" className="font-mono text-[12.5px]" title={textOf(c.command)}>
          {textOf(c.command)}
        </span>
      ),
    },
    { key: "approved", head: "Approved by", width: "minmax(7rem,1fr)", narrow: "hide", cell: (c) => (c.approvedByName ? <span title={c.approvedByName}>{c.approvedByName}</span> : <span className="text-soft">nobody yet</span>) },
    ...(places.length > 1 && !workspace ? [{ key: "where", head: "Workspace", width: "minmax(8rem,1fr)", narrow: "hide", cell: (c: SavedCommand) => places.find((p) => p.id === c.scope?.workspaceId)?.label ?? c.scope?.workspaceId } as Column<SavedCommand>] : []),
    { key: "changed", head: "Changed", width: "6.5rem", narrow: "hide", cell: (c) => <Ago at={c.updatedAt} /> },
  ];
  return (
    <Page
      title="Saved commands"
      about="Saved by one person and approved by another, so that whoever may run them needs no right to run any command."
      actions={
        <Button kind="primary" why={why("commands.save")} onClick={() => setMaking(true)}>
          Save a command
        </Button>
      }
    >
      <Tabs of={commands} />
      <div className="flex flex-wrap gap-2">
        <Select aria-label="which versions" value={show} onChange={(e) => set({ show: e.target.value === "current" ? undefined : e.target.value })} className="w-56!">
          {Object.entries(shows).map(([value, s]) => (
            <option key={value} value={value}>
              {s.label}
            </option>
          ))}
        </Select>
        <Input type="search" aria-label="search in names and descriptions" placeholder="Search names and descriptions…" value={wanted} onChange={(e) => set({ q: e.target.value || undefined })} className="w-72!" />
      </div>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table
            label="saved commands"
            columns={columns}
            rows={list.rows}
            id={(c) => c.id}
            more={list.more}
            open={(c) => void navigate({ to: paths.savedCommand(c.id) as never })}
            empty={
              <Empty title={wanted ? "No saved command is called that" : show === "pending" ? "Nothing waits for approval" : "No command is saved"}>
                <p>Save what is run again and again, such as restarting a service. Somebody else approves it, and from then on it takes the permission commands.run alone.</p>
              </Empty>
            }
          />
        )}
      </Card>
      {making && <SaveForm close={() => setMaking(false)} />}
    </Page>
  );
}
