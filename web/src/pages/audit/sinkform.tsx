// A new receiver of the audit log.
import { useQueryClient } from "@tanstack/react-query";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { useState } from "react";
import { sinks } from "../../api/sinks";
import { parseDuration } from "../../api/duration";
import { SinkService } from "../../api/gen/loopback/v1/sink_pb";
import { command } from "../../api/shell";
import { Button, Command, Dialog, Field, Input, Select } from "../../ui/basics";
import { call, Choice, FormDialog, useAct } from "../../ui/form";
import { OrganisationField } from "../access/organisation";

type Kind = "webhook" | "syslog" | "otlp" | "file";

const kinds: Record<Kind, { label: string; target: string; example: string; hint: string; secret?: string }> = {
  webhook: { label: "webhook", target: "Address", example: "https://siem.example/in", hint: "batches are posted to it, signed as Standard Webhooks has it", secret: "whsec_…; empty: one is made, and shown once" },
  syslog: { label: "syslog", target: "Host and port", example: "logs.example:6514", hint: "RFC 5424 over TLS (RFC 5425)" },
  otlp: { label: "OpenTelemetry", target: "Address", example: "https://collector.example:4318", hint: "OTLP over HTTP", secret: "the collector's bearer token; empty: none" },
  file: { label: "file", target: "File name", example: "audit.jsonl", hint: "in sinks/ below the control plane's data folder" },
};

export function SinkForm({ close }: { close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [opened] = useState(Date.now);
  const [name, setName] = useState("");
  const [kind, setKind] = useState<Kind>("webhook");
  const [target, setTarget] = useState("");
  const [format, setFormat] = useState("json");
  const [organisation, setOrganisation] = useState("");
  const [ca, setCa] = useState("");
  const [secret, setSecret] = useState("");
  const [since, setSince] = useState("");
  const [made, setMade] = useState("");
  const span = parseDuration(since);
  const at = since === "" ? undefined : span !== undefined ? new Date(opened - span * 1000) : new Date(Date.parse(since));
  const wrong = at && Number.isNaN(at.getTime()) ? "write it like 24h, or 2026-07-01T00:00Z" : undefined;
  const k = kinds[kind];
  const request = { name, organisation, kind, target, format, ca: kind === "file" ? "" : ca, secret: k.secret ? secret : "", since: at && !wrong ? timestampFromDate(at) : undefined };
  const finish = () => {
    void queries.invalidateQueries({ queryKey: ["sinks"] });
    close();
  };
  if (made) {
    return (
      <Dialog title="Keep this secret" open close={finish}>
        <p>
          The receiver checks by it that what it gets comes from here. It is shown <strong>once</strong>.
        </p>
        <Command text={made} label="secret" />
        <div className="flex justify-end">
          <Button kind="primary" onClick={finish}>
            I have kept it
          </Button>
        </div>
      </Dialog>
    );
  }
  return (
    <FormDialog
      title="New sink"
      wide
      close={close}
      act={act}
      label="Make sink"
      disabled={!name || !target || wrong !== undefined}
      submit={() =>
        void act.run(async () => {
          const answer = await sinks.createSink(request);
          if (answer.secret && !secret) setMade(answer.secret);
          else finish();
        })
      }
      same={{
        cli: command(`sink create ${name || "NAME"}`, [[kind, target || k.example], ["format", format === "json" ? "" : format], ["org", organisation], ["receiver-ca", request.ca && "ca.pem"], ["secret-file", request.secret && "secret.txt"], ["since", since]]),
        api: call(SinkService.method.createSink, { ...request, secret: request.secret && "…" }),
      }}
    >
      <Choice label="Sends to a" value={kind} set={setKind} of={(Object.keys(kinds) as Kind[]).map((value) => ({ value, label: kinds[value].label }))} />
      <div className="grid gap-4 sm:grid-cols-2">
        <Field label="Name">{(id) => <Input {...id} autoFocus required value={name} placeholder="siem" onChange={(e) => setName(e.target.value)} />}</Field>
        <Field label={k.target} hint={k.hint}>
          {(id) => <Input {...id} required value={target} placeholder={k.example} onChange={(e) => setTarget(e.target.value.trim())} />}
        </Field>
        <Field label="Format" hint={{ json: "the entry as it is hashed", ocsf: "OCSF 1.3.0", ecs: "Elastic Common Schema 8.17" }[format]}>
          {(id) => (
            <Select {...id} value={format} onChange={(e) => setFormat(e.target.value)}>
              <option>json</option>
              <option>ocsf</option>
              <option>ecs</option>
            </Select>
          )}
        </Field>
        <Field label="Entries from" hint="24h ago, or a time; empty: from now on" error={wrong}>
          {(id) => <Input {...id} value={since} onChange={(e) => setSince(e.target.value.trim())} />}
        </Field>
        <OrganisationField value={organisation} set={setOrganisation} label="Gets what happens in" all="everything" />
        {k.secret && (
          <Field label={kind === "otlp" ? "Token" : "Signing secret"} hint={k.secret}>
            {(id) => <Input {...id} type="password" value={secret} onChange={(e) => setSecret(e.target.value.trim())} />}
          </Field>
        )}
      </div>
      {kind !== "file" && (
        <Field label="Who signed the receiver's certificate" hint="PEM; empty: whom this system trusts">
          {(id) => <textarea {...id} rows={3} spellCheck={false} value={ca} onChange={(e) => setCa(e.target.value)} className="w-full rounded-md border border-edge/50 bg-card px-2.5 py-1.5 font-mono text-[12px] hover:border-edge" />}
        </Field>
      )}
    </FormDialog>
  );
}
