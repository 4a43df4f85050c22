// Locking somebody, a role or hosts out.
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { parseDuration } from "../../api/duration";
import { LockService } from "../../api/gen/loopback/v1/lock_pb";
import { locks as api } from "../../api/locks";
import { command } from "../../api/shell";
import { atOf, SpotSelect, useSpots } from "../../app/spot";
import { Field, Input, Select } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { RoleField, WhoFields, type Who } from "./picks";

const targets = { who: "somebody", role: "a role", host: "a host", hosts: "hosts by a selector" } as const;
type Of = keyof typeof targets;

const means: Record<Of, string> = {
  who: "They may do nothing in the place, and have no use of their credentials where they belong to it.",
  role: "Whoever holds it may not do what it gives there, not even by another role.",
  host: "Nobody opens shells, runs commands or moves files there. It is managed as before.",
  hosts: "Nobody opens shells, runs commands or moves files there. They are managed as before.",
};

export function LockForm({ close, host = "" }: { close: () => void; host?: string }) {
  const queries = useQueryClient();
  const act = useAct();
  const { flag } = useSpots();
  const [of, setOf] = useState<Of>(host ? "host" : "who");
  const [who, setWho] = useState<Who>({ kind: "user", ref: "" });
  const [role, setRole] = useState("");
  const [hostRef, setHost] = useState(host);
  const [hostSelector, setSelector] = useState("");
  const [spot, setSpot] = useState("home");
  const [reason, setReason] = useState("");
  const [ticket, setTicket] = useState("");
  const [length, setLength] = useState("");
  const span = length === "" ? 0 : parseDuration(length);
  const home = spot === "home" && of !== "hosts";
  const place = spot === "home" ? "" : spot;
  const target = of === "who" ? (who.kind === "user" ? { user: who.ref } : who.kind === "group" ? { group: who.ref } : { serviceAccount: who.ref }) : of === "role" ? { role } : of === "host" ? { host: hostRef } : { hostSelector };
  const request = { ...target, ...(of === "host" || home ? {} : atOf(place)), reason, ticket, notAfter: span ? timestampFromDate(new Date(Date.now() + span * 1000)) : undefined };
  const named: [string, string] = of === "who" ? [who.kind.replace("_", "-"), who.ref || "NAME"] : of === "role" ? ["role", role || "ROLE"] : of === "host" ? ["host", hostRef || "HOST"] : ["hosts", hostSelector || "SELECTOR"];
  return (
    <FormDialog
      title="Lock out"
      close={close}
      act={act}
      kind="danger"
      label="Lock now"
      disabled={!(of === "who" ? who.ref : of === "role" ? role : of === "host" ? hostRef : hostSelector) || !reason.trim() || span === undefined}
      submit={() =>
        void act.run(() => api.createLock(request)).then((done) => {
          if (!done) return;
          void queries.invalidateQueries({ queryKey: ["locks"] });
          close();
        })
      }
      same={{ cli: command("lock create", [named, of === "host" || home ? ["", false] : flag(place), ["for", length], ["reason", reason || "REASON"], ["ticket", ticket]]), api: call(LockService.method.createLock, request) }}
    >
      <Field label="What to lock" hint={means[of]}>
        {(at) => (
          <Select {...at} value={of} onChange={(e) => setOf(e.target.value as Of)}>
            {Object.entries(targets).map(([value, label]) => (
              <option key={value} value={value}>
                {label}
              </option>
            ))}
          </Select>
        )}
      </Field>
      {of === "who" && <WhoFields value={who} set={setWho} />}
      {of === "role" && <RoleField value={role} set={setRole} />}
      {of === "host" && <Field label="Host">{(at) => <Input {...at} required value={hostRef} placeholder="name or id" onChange={(e) => setHost(e.target.value.trim())} />}</Field>}
      {of === "hosts" && (
        <Field label="Hosts whose labels match" hint="*: all of the place">
          {(at) => <Input {...at} required value={hostSelector} placeholder="role=db" className="font-mono" onChange={(e) => setSelector(e.target.value)} />}
        </Field>
      )}
      {of !== "host" && (
        <Field label="Where" hint={home ? (of === "role" ? "where the role belongs; for one that is built in, the whole deployment" : "where they belong: all that they may do") : undefined}>
          {(at) => (of === "hosts" ? <SpotSelect {...at} value={place} set={setSpot} /> : <HomeSelect at={at} value={spot} set={setSpot} />)}
        </Field>
      )}
      <Field label="Reason" hint="Whoever is kept out reads it.">
        {(at) => <Input {...at} required maxLength={512} value={reason} placeholder="laptop stolen" onChange={(e) => setReason(e.target.value)} />}
      </Field>
      <div className="grid gap-4 sm:grid-cols-2">
        <Field label="For how long" hint="empty: until it is lifted" error={span === undefined ? "write it like 4h or 7d" : undefined}>
          {(at) => <Input {...at} value={length} placeholder="4h" onChange={(e) => setLength(e.target.value.trim())} />}
        </Field>
        <Field label="Ticket">{(at) => <Input {...at} value={ticket} placeholder="INC-7" onChange={(e) => setTicket(e.target.value)} />}</Field>
      </div>
    </FormDialog>
  );
}

function HomeSelect({ at, value, set }: { at: object; value: string; set: (spot: string) => void }) {
  const { spots } = useSpots();
  return (
    <Select {...at} value={value} onChange={(e) => set(e.target.value)}>
      <option value="home">Where it belongs</option>
      <option value="">Everywhere</option>
      {spots.map((s) => (
        <option key={`${s.level}:${s.id}`} value={`${s.level}:${s.id}`}>
          {s.path}
        </option>
      ))}
    </Select>
  );
}
