// One check: what it shows, and what it runs for that.
import { Link, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { paths } from "../../app/paths";
import { useSession } from "../../app/session";
import { Button, Card, Page, Problem, Waiting } from "../../ui/basics";
import { RunCheck, useChecks } from "./checks";
import { WhatItRuns } from "./parts";

export function CheckPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { why } = useSession();
  const [running, setRunning] = useState(false);
  const list = useChecks();
  const c = list.data?.items.find((one) => one.name === id);
  if (!c) {
    const unknown = { code: "check_unknown", message: `there is no check ${JSON.stringify(id)}`, hint: "an older control plane may have fewer", violations: [], requestId: "" };
    return (
      <Page title="Check">
        {list.isPending ? <Waiting /> : <Problem error={list.error ?? unknown} retry={() => void list.refetch()} />}
        <Link to={paths.checks} className="text-accent hover:underline">
          To all checks
        </Link>
      </Page>
    );
  }
  return (
    <Page
      title={`Check ${c.name}`}
      about={`Shows ${c.description}. It changes nothing on a host.`}
      actions={
        <Button kind="primary" why={why("checks.run")} onClick={() => setRunning(true)}>
          Run it
        </Button>
      }
    >
      <Card title="What it runs">
        <WhatItRuns of={c.command} />
      </Card>
      {running && <RunCheck c={c} close={() => setRunning(false)} />}
    </Page>
  );
}
