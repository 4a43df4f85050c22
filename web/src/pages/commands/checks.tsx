// Checks: what can be asked of hosts without changing anything there.
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { commands as api } from "../../api/commands";
import { CommandService, type Check } from "../../api/gen/loopback/v1/command_pb";
import { commands } from "../../app/pages";
import { paths } from "../../app/paths";
import { useSession } from "../../app/session";
import { Tabs } from "../../app/tabs";
import { Button, Card, Empty, Page, Problem, Waiting } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { Table, type Column } from "../../ui/table";
import { runItOn, Targets, useTargets } from "../targets";
import { Script, textOf } from "./parts";

export function useChecks() {
  return useQuery({ queryKey: ["checks"], queryFn: () => api.listChecks({}), staleTime: Infinity });
}

export function Checks() {
  const { why } = useSession();
  const navigate = useNavigate();
  const [running, setRunning] = useState<Check>();
  const list = useChecks();
  const columns: Column<Check>[] = [
    {
      key: "name",
      head: "Name",
      width: "minmax(7rem,0.7fr)",
      cell: (c) => (
        <Link to={paths.check(c.name) as never} className="font-medium hover:underline">
          {c.name}
        </Link>
      ),
    },
    { key: "description", head: "Shows", width: "minmax(10rem,1.5fr)", cell: (c) => <span title={c.description}>{c.description}</span> },
    {
      key: "runs",
      head: "Command",
      width: "minmax(10rem,2fr)",
      narrow: "hide",
      cell: (c) => (
        <span dir="ltr" className="font-mono text-[12.5px]" title={textOf(c.command)}>
          {textOf(c.command)}
        </span>
      ),
    },
    {
      key: "act",
      head: "Run",
      width: "6rem",
      cell: (c) => (
        <Button aria-label={`run ${c.name}`} why={why("checks.run")} onClick={() => setRunning(c)}>
          Run
        </Button>
      ),
    },
  ];
  return (
    <Page title="Checks" about="Built in, and change nothing on a host. What they find is kept as that of any command.">
      <Tabs of={commands} />
      {list.error && <Problem error={list.error} retry={() => void list.refetch()} />}
      <Card flush>{list.isPending ? <Waiting /> : <Table label="checks" columns={columns} rows={list.data?.items ?? []} id={(c) => c.name} open={(c) => void navigate({ to: paths.check(c.name) as never })} empty={<Empty title="There are no checks" />} />}</Card>
      {running && <RunCheck c={running} close={() => setRunning(undefined)} />}
    </Page>
  );
}

export function RunCheck({ c, close }: { c: Check; close: () => void }) {
  const navigate = useNavigate();
  const at = useTargets();
  const act = useAct();
  const request = { ...at.request, check: c.name };
  return (
    <FormDialog
      title={`Run the check ${c.name}`}
      close={close}
      act={act}
      label={runItOn(at.reached)}
      submit={() =>
        void act.run(async () => {
          const made = await api.runCheck({ ...request, requestId: crypto.randomUUID() });
          close();
          await navigate({ to: paths.command(made.id) as never });
        })
      }
      same={{ cli: ["loopback check run", c.name, at.where, at.flag].filter(Boolean).join(" "), api: call(CommandService.method.runCheck, request) }}
    >
      <Script of={c.command} label="what is run" />
      <Targets at={at} first />
    </FormDialog>
  );
}
