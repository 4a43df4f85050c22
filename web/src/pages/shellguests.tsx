// Guests of a shell: people without an account who look on by a link.
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { formatDuration, parseDuration, toProto } from "../api/duration";
import { GuestService, type Guest } from "../api/gen/loopback/v1/guest_pb";
import type { ShellSession } from "../api/gen/loopback/v1/shell_pb";
import { guests } from "../api/guests";
import { command } from "../api/shell";
import { usePages } from "../app/list";
import { useSession } from "../app/session";
import { Ago, Button, Card, Command, Dialog, Field, Input, Problem, Select, State } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";
import { Table, type Column } from "../ui/table";

const spans = ["10m", "30m", "1h"]; // a session is over after an hour

/** The form that makes a guest's link, and the link, shown once: it is gone with the dialog. */
export function InviteGuest({ s, close }: { s: ShellSession; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [name, setName] = useState("");
  const [span, setSpan] = useState("30m");
  const [reason, setReason] = useState("");
  const [link, setLink] = useState("");
  const request = { session: s.id, name, ttl: toProto(parseDuration(span) ?? 0) };
  const headers: Record<string, string> = reason ? { "Loopback-Reason": encodeURIComponent(reason) } : {};
  const submit = () =>
    void act.run(async () => {
      setLink((await guests.inviteGuest(request, { headers })).url);
      await queries.invalidateQueries({ queryKey: ["guests"] });
    });
  if (link)
    return (
      <Dialog title={`Link for ${name}`} open close={close}>
        <p>
          Shown <strong>once</strong>. It works until its time is over, in one place at a time. Whoever has it sees the terminal: send it by a way that only they read.
        </p>
        <Command text={link} label="link" />
        <div className="flex justify-end">
          <Button kind="primary" onClick={close}>
            Done
          </Button>
        </div>
      </Dialog>
    );
  return (
    <FormDialog
      title={`Invite a guest to the shell on ${s.hostName}`}
      close={close}
      act={act}
      label="Make link"
      submit={submit}
      same={{ cli: command(`session guest invite ${s.id}`, [["name", name || "NAME"], ["for", span], ["reason", reason]]), api: call(GuestService.method.inviteGuest, request, { headers }) }}
    >
      <p>Somebody without an account looks on, from about the last screen on. They cannot type, and see nothing else. Those in the session see them come and go.</p>
      <Field label="Who it is" hint="Those in the session read it.">
        {(at) => <Input {...at} required autoFocus maxLength={64} autoComplete="off" placeholder="Vendor, Jane" value={name} onChange={(e) => setName(e.target.value)} />}
      </Field>
      <Field label="For how long" hint="Never past the session's end, nor for longer than you may watch it.">
        {(at) => (
          <Select {...at} value={span} onChange={(e) => setSpan(e.target.value)}>
            {spans.map((one) => (
              <option key={one} value={one}>
                {formatDuration(parseDuration(one) ?? 0)}
              </option>
            ))}
          </Select>
        )}
      </Field>
      <Field label="Reason" hint="Goes to the audit log.">
        {(at) => <Input {...at} placeholder="case 4711" value={reason} onChange={(e) => setReason(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}

/** A session's guests; nothing where there are none. */
export function Guests({ s }: { s: ShellSession }) {
  const { why, who } = useSession();
  const [ending, setEnding] = useState<Guest>();
  const list = usePages(["guests", s.id], (token) => guests.listGuests({ session: s.id, page: { size: 100, token } }));
  const own = (g: Guest) => g.principalId === who.principalId || s.principalId === who.principalId;
  const columns: Column<Guest>[] = [
    { key: "name", head: "Guest", width: "minmax(8rem,1fr)", cell: (g) => <span className="font-medium">{g.name}</span> },
    { key: "state", head: "State", width: "7rem", cell: (g) => <State of={g.state} kind="guest" /> },
    { key: "by", head: "Invited by", width: "minmax(7rem,1fr)", narrow: "hide", cell: (g) => g.principalName },
    { key: "why", head: "Why", width: "minmax(8rem,1fr)", narrow: "hide", cell: (g) => g.reason },
    { key: "from", head: "From", width: "9rem", narrow: "hide", cell: (g) => g.address },
    { key: "ends", head: "Ends", width: "6rem", cell: (g) => <Ago at={g.expiresAt} /> },
    {
      key: "end",
      head: "",
      width: "7rem",
      cell: (g) =>
        g.state !== "revoked" && g.state !== "expired" && s.state !== "ended" && (
          <Button kind="danger" why={own(g) ? "" : why("shell_guests.revoke")} onClick={() => setEnding(g)}>
            Take back
          </Button>
        ),
    },
  ];
  if (list.error) return <Problem error={list.error} retry={list.again} />;
  if (list.rows.length === 0) return null;
  return (
    <Card title="Guests" flush>
      <Table label="guests" columns={columns} rows={list.rows} id={(g) => g.id} more={list.more} empty={null} />
      {ending && <Revoke g={ending} close={() => setEnding(undefined)} />}
    </Card>
  );
}

function Revoke({ g, close }: { g: Guest; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const request = { guest: g.id };
  const submit = () =>
    void act.run(async () => {
      await guests.revokeGuest(request);
      await queries.invalidateQueries({ queryKey: ["guests"] });
      close();
    });
  return (
    <FormDialog title={`Take the link of ${g.name} back?`} close={close} act={act} kind="danger" label="Take it back" submit={submit} same={{ cli: command(`session guest revoke ${g.id}`), api: call(GuestService.method.revokeGuest, request) }}>
      <p>{g.state === "watching" ? "They look on just now, and see nothing more from here on." : "It lets nobody in from here on."}</p>
    </FormDialog>
  );
}
