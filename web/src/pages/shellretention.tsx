// How long recordings of shells are kept, by place.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api/client";
import { ShellService, type RecordingRetention } from "../api/gen/loopback/v1/shell_pb";
import { command } from "../api/shell";
import { shells } from "../app/pages";
import { useSession } from "../app/session";
import { atOf, spotOf, SpotSelect, useSpots } from "../app/spot";
import { Tabs } from "../app/tabs";
import { Ago, Button, Card, Empty, Field, Input, Page, Problem, Waiting } from "../ui/basics";
import { call, Choice, FormDialog, useAct } from "../ui/form";
import { Table, type Column } from "../ui/table";

const least = 1; // days; the server's own bounds
const most = 36_500;

export function ShellRetention() {
  const { why } = useSession();
  const { called } = useSpots();
  const [changing, setChanging] = useState<string>(); // the place
  const all = useQuery({ queryKey: ["recording retentions"], queryFn: () => api.shells.listRecordingRetentions({}) });
  const rows = all.data?.items ?? [];
  const columns: Column<RecordingRetention>[] = [
    {
      key: "where",
      head: "Where",
      width: "minmax(9rem,1fr)",
      cell: (r) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline disabled:no-underline" disabled={!!why("shell_sessions.retain")} onClick={() => setChanging(spotOf(r.scope))}>
          {called(spotOf(r.scope))}
        </button>
      ),
    },
    { key: "kept", head: "Kept", width: "8rem", cell: (r) => (r.keepDays === 0n ? "for ever" : `${r.keepDays.toLocaleString()} days`) },
    { key: "why", head: "Why", width: "minmax(8rem,2fr)", narrow: "hide", cell: (r) => <span title={r.reason}>{r.reason}</span> },
    { key: "who", head: "Decided by", width: "minmax(7rem,1fr)", narrow: "hide", cell: (r) => r.principalName },
    { key: "set", head: "Decided", width: "7rem", narrow: "hide", cell: (r) => <Ago at={r.updatedAt} /> },
  ];
  return (
    <Page
      title="Retention of recordings"
      about="How long recordings of shells are kept after a session’s end. What is on hold, or waits for a review, is kept longer. Who had a shell, where and why stays, and so does the proof of what was recorded."
      actions={
        <Button kind="primary" why={why("shell_sessions.retain")} onClick={() => setChanging("")}>
          How long…
        </Button>
      }
    >
      <Tabs of={shells} />
      {all.error && <Problem error={all.error} retry={() => void all.refetch()} />}
      <Card flush>
        {all.isPending ? (
          <Waiting rows={3} />
        ) : (
          <Table
            label="retention of recordings"
            columns={columns}
            rows={rows}
            id={(r) => spotOf(r.scope) || "everywhere"}
            empty={
              <Empty title="Recordings are kept for ever">
                <p>Nobody said otherwise, as far as you may see.</p>
              </Empty>
            }
          />
        )}
      </Card>
      {changing !== undefined && <Change spot={changing} all={rows} close={() => setChanging(undefined)} />}
    </Page>
  );
}

function Change({ spot: first, all, close }: { spot: string; all: RecordingRetention[]; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const { flag } = useSpots();
  const of = (spot: string) => all.find((r) => spotOf(r.scope) === spot);
  const [spot, setSpot] = useState(first);
  const now = of(spot);
  const [how, setHow] = useState<"days" | "ever" | "inherit">(now?.keepDays === 0n ? "ever" : "days");
  const [days, setDays] = useState(now?.keepDays ? now.keepDays.toString() : "400");
  const [reason, setReason] = useState("");
  const [sure, setSure] = useState(false);
  const count = /^\d{1,5}$/.test(days) ? Number(days) : undefined;
  const wrong = how === "days" && (count === undefined || count < least || count > most) ? `a number of days, ${least} to ${most.toLocaleString()}` : undefined;
  const keepDays = how === "days" ? (count ?? 0) : 0;
  const deletes = how === "inherit" || (how === "days" && !wrong);
  const request = { ...atOf(spot), keepDays: BigInt(keepDays), inherit: how === "inherit", reason: reason.trim() };
  return (
    <FormDialog
      title="How long recordings are kept"
      close={close}
      act={act}
      kind={deletes ? "danger" : "primary"}
      label={how === "days" ? "Delete what is older" : "Keep it so"}
      disabled={wrong !== undefined || (deletes && !sure)}
      submit={() =>
        void act.run(() => api.shells.setRecordingRetention(request)).then((done) => {
          if (!done) return;
          void queries.invalidateQueries({ queryKey: ["recording retentions"] });
          void queries.invalidateQueries({ queryKey: ["shells"] });
          close();
        })
      }
      same={{
        cli: command("session retention", [flag(spot), how === "inherit" ? ["inherit", true] : ["keep-days", keepDays], ["reason", reason.trim()]]),
        api: call(ShellService.method.setRecordingRetention, request),
      }}
    >
      <Field label="Recordings in" hint="the place nearest to a session decides">
        {(at) => <SpotSelect {...at} value={spot} set={setSpot} />}
      </Field>
      <Choice
        label="are kept"
        value={how}
        set={setHow}
        of={[
          { value: "days", label: "for so many days" },
          { value: "ever", label: "for ever" },
          { value: "inherit", label: "as the place above it says" },
        ]}
      />
      {how === "days" && (
        <Field label="Days" hint="after a session’s end" error={wrong}>
          {(at) => <Input {...at} inputMode="numeric" required value={days} onChange={(e) => setDays(e.target.value.trim())} />}
        </Field>
      )}
      <Field label="Why" hint="goes to the audit log">
        {(at) => <Input {...at} maxLength={500} value={reason} onChange={(e) => setReason(e.target.value)} />}
      </Field>
      {deletes && (
        <label className="flex items-start gap-2 rounded-md border border-bad/40 bg-bad-wash px-3 py-2">
          <input type="checkbox" checked={sure} onChange={(e) => setSure(e.target.checked)} className="mt-1" />
          <span>{how === "days" ? `Recordings of sessions that ended more than ${keepDays.toLocaleString()} days ago are deleted.` : "Recordings that the place above it keeps no longer are deleted."} They cannot be brought back.</span>
        </label>
      )}
    </FormDialog>
  );
}
