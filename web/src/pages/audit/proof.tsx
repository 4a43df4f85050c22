// What the log proves, checked in this browser; what an outsider needs to check it without us; and how to take it along.
import { useQuery } from "@tanstack/react-query";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { useRef, useState, type ReactNode } from "react";
import { api } from "../../api/client";
import { AuditService } from "../../api/gen/loopback/v1/audit_pb";
import { command } from "../../api/shell";
import { audit } from "../../app/pages";
import { useSession } from "../../app/session";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Command, Facts, Field, Input, Page, Problem, Waiting } from "../../ui/basics";
import { call, Form, Same, useAct } from "../../ui/form";
import { readLog, remembered, verifyLog, type Log, type Step } from "./prove";
import { Steps } from "./steps";

export function Proof() {
  const latest = useQuery({ queryKey: ["audit", "checkpoint"], queryFn: () => api.audit.getCheckpoint({}) });
  return (
    <Page title="Proof" about="Whether anything in the audit log was changed, dropped, moved or slipped in, even by whoever owns its database.">
      <Tabs of={audit} />
      {latest.error && <Problem error={latest.error} retry={() => void latest.refetch()} />}
      <div className="grid items-start gap-4 xl:grid-cols-2">
        <div className="flex min-w-0 flex-col gap-4">
          <Verify />
          <Evidence />
        </div>
        <Card title="For somebody outside">
          {latest.isPending ? (
            <Waiting rows={4} />
          ) : (
            latest.data && (
              <div className="flex flex-col gap-4">
                <p>Whoever keeps one of these checkpoints where you cannot reach it can show later that nothing before it was changed. Mail one to the auditor once a day.</p>
                <Facts
                  of={[
                    ["Log", latest.data.log.toString()],
                    ["Entries", latest.data.size.toLocaleString()],
                    ["Signed", <Ago key="s" at={latest.data.signedAt} />],
                    ["Bodies deleted", latest.data.pruned > 0n && `up to position ${latest.data.pruned.toLocaleString()}, by retention; their hashes are kept`],
                  ]}
                />
                <Labelled label="The checkpoint">
                  <Command text={latest.data.checkpoint} label="checkpoint" />
                </Labelled>
                <Labelled label="The key that it is signed with: hand it over another way, once">
                  <Command text={latest.data.key} label="key" />
                </Labelled>
                <Labelled label="They check the exported log with no more than these">
                  <Command text="loopback audit verify log.txt --key key.txt --checkpoint monday.txt" />
                </Labelled>
                <Same cli={command("audit checkpoint")} api={call(AuditService.method.getCheckpoint, {})} />
              </div>
            )
          )}
        </Card>
      </div>
    </Page>
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

const most = 200_000; // entries that a page takes along; more is for the command line

function Verify() {
  const { why } = useSession();
  const act = useAct();
  const [key, setKey] = useState("");
  const [brought, setBrought] = useState("");
  const [steps, setSteps] = useState<Step[]>([]);
  const [log, setLog] = useState<Log>();
  const [done, setDone] = useState<number>();
  const [file, setFile] = useState<Blob>();
  const stop = useRef<AbortController>(undefined);
  const known = remembered();
  const verify = () => {
    setFile(undefined);
    void act.run(async () => {
      const found = await verifyLog(key, brought);
      setSteps(found.steps);
      setLog(found.log);
    });
  };
  const read = (of: Log) =>
    void act.run(async () => {
      stop.current = new AbortController();
      setDone(0);
      const parts: string[] = [];
      try {
        const more = await readLog(of, setDone, (line) => parts.push(`${line}\n`), stop.current.signal);
        setSteps((old) => [...old, ...more]);
        setFile(new Blob(parts, { type: "text/plain" }));
      } finally {
        setDone(undefined);
      }
    });
  const large = log !== undefined && log.checkpoint.size > BigInt(most);
  return (
    <Card title="Verify">
      <Form submit={verify} error={act.error} same={{ cli: command("audit verify", [["key", key.trim()], ["checkpoint", brought.trim() && "checkpoint.txt"]]), api: call(AuditService.method.getCheckpoint, {}) }}>
        <p>
          All of it is checked in this browser, by its own hashing. {known ? <>It remembers a checkpoint from <Ago at={timestampFromMs(known.at)} />.</> : "It remembers nothing of this log yet."}
        </p>
        <details>
          <summary className="text-[13px] font-medium">Against what came another way</summary>
          <div className="mt-3 flex flex-col gap-4">
            <Field label="Key" hint="from somebody you trust; empty: the one that the log names">
              {(at) => <Input {...at} value={key} className="font-mono" onChange={(e) => setKey(e.target.value)} />}
            </Field>
            <Field label="Checkpoint" hint="kept elsewhere, all its lines; empty: only what this browser remembers">
              {(at) => <textarea {...at} rows={5} spellCheck={false} value={brought} onChange={(e) => setBrought(e.target.value)} className="w-full rounded-md border border-edge/50 bg-card px-2.5 py-1.5 font-mono text-[12px] hover:border-edge" />}
            </Field>
          </div>
        </details>
        <div className="flex flex-wrap gap-2">
          <Button type="submit" kind="primary" busy={act.busy && done === undefined} why={why("audit.verify")}>
            Verify
          </Button>
          {log && !file && (
            <Button busy={done !== undefined} why={large ? `it is ${log.checkpoint.size.toLocaleString()} entries: use loopback audit verify` : why("audit.read")} onClick={() => read(log)}>
              {done === undefined ? "Read every entry" : `${done.toLocaleString()} of ${log.checkpoint.size.toLocaleString()}`}
            </Button>
          )}
          {done !== undefined && (
            <Button kind="quiet" onClick={() => stop.current?.abort()}>
              Stop
            </Button>
          )}
          {file && <Save file={file} />}
        </div>
        <Steps of={steps} />
      </Form>
    </Card>
  );
}

function Save({ file }: { file: Blob }) {
  return (
    <Button
      onClick={() => {
        const address = URL.createObjectURL(file);
        const link = document.createElement("a");
        link.href = address;
        link.download = "log.txt";
        link.click();
        setTimeout(() => URL.revokeObjectURL(address), 10_000);
      }}
    >
      Save the log to a file
    </Button>
  );
}

function Evidence() {
  const [from, setFrom] = useState("90d");
  const [to, setTo] = useState("");
  const [seed, setSeed] = useState("");
  return (
    <Card title="Evidence for an audit">
      <div className="flex flex-col gap-4">
        <p>A folder that answers what auditors ask about access: the log with its checkpoint, every change of access in that time, a sample of what was given and taken with a proof of each, and who holds what now. It is written and checked by the command line.</p>
        <div className="grid gap-4 sm:grid-cols-3">
          <Field label="From" hint="so long ago, or a time">
            {(at) => <Input {...at} value={from} onChange={(e) => setFrom(e.target.value.trim())} />}
          </Field>
          <Field label="To" hint="empty: now">
            {(at) => <Input {...at} value={to} onChange={(e) => setTo(e.target.value.trim())} />}
          </Field>
          <Field label="Seed" hint="the same draws the same sample">
            {(at) => <Input {...at} type="number" value={seed} onChange={(e) => setSeed(e.target.value)} />}
          </Field>
        </div>
        <Command text={command("audit evidence FOLDER", [["from", from], ["to", to], ["seed", seed]])} />
        <Command text="loopback audit export log.txt" />
      </div>
    </Card>
  );
}
