// How long entries of the audit log keep their bodies, by organisation, and what is on hold.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, troubleOf } from "../../api/client";
import { AuditService, type AuditRetention } from "../../api/gen/loopback/v1/audit_pb";
import { command } from "../../api/shell";
import { audit } from "../../app/pages";
import { usePlaces } from "../../app/place";
import { useSession } from "../../app/session";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Empty, Field, Input, Page, Problem, Waiting } from "../../ui/basics";
import { call, Choice, FormDialog, useAct } from "../../ui/form";
import { Table, type Column } from "../../ui/table";

interface Of extends AuditRetention {
  name: string; // of the organisation; empty: the deployment
}

const least = 30; // days; the server's own bound

const kept = (r: AuditRetention) => (r.keepDays === 0n ? "for ever" : `${r.keepDays.toLocaleString()} days`);

export function Retention() {
  const { why } = useSession();
  const { spots } = usePlaces();
  const names = spots.filter((s) => s.level === "organisation").map((s) => s.path);
  const [changing, setChanging] = useState<Of>();
  const all = useQuery({
    queryKey: ["audit", "retention", names],
    queryFn: async (): Promise<Of[]> =>
      Promise.all(
        ["", ...names].map((organisation) =>
          api.audit.getRetention({ organisation }).then(
            (r) => ({ ...r, name: organisation }),
            (error: unknown) => {
              if (["permission_denied", "not_found"].includes(troubleOf(error).code)) return undefined; // they read another part of the log
              throw error;
            },
          ),
        ),
      ).then((list) => list.filter((r) => r !== undefined)),
  });
  const columns: Column<Of>[] = [
    { key: "whose", head: "Whose", width: "minmax(6.5rem,1fr)", cell: (r) => (r.name ? <span className="font-medium" title={r.name}>{r.name}</span> : <span className="font-medium">everybody else</span>) },
    { key: "kept", head: "Kept", width: "minmax(5rem,1fr)", cell: (r) => (r.name && !r.updatedAt ? <span className="text-soft">as everybody else’s</span> : kept(r)) },
    { key: "hold", head: "On hold", width: "5.5rem", cell: (r) => (r.hold ? <span className="font-medium text-warn">on hold</span> : <span className="text-soft">no</span>) },
    { key: "why", head: "Why", width: "minmax(8rem,2fr)", narrow: "hide", cell: (r) => <span title={r.reason}>{r.reason}</span> },
    { key: "set", head: "Decided", width: "7rem", narrow: "hide", cell: (r) => <Ago at={r.updatedAt} /> },
    {
      key: "act",
      head: <span className="sr-only">acts</span>,
      width: "7rem",
      cell: (r) => (
        <Button why={why("audit.retain")} aria-label={`Change what is kept of ${r.name || "everybody else"}`} onClick={() => setChanging(r)}>
          Change…
        </Button>
      ),
    },
  ];
  return (
    <Page title="Retention" about="How long entries keep their bodies. Their hashes are kept for ever: the log verifies as before, and says what is gone.">
      <Tabs of={audit} />
      {all.error && <Problem error={all.error} retry={() => void all.refetch()} />}
      <Card flush>{all.isPending ? <Waiting rows={3} /> : <Table label="retention" columns={columns} rows={all.data ?? []} id={(r) => r.organisationId || "deployment"} empty={<Empty title="There is nothing of this that you may see"><p>Who may read the audit log of a whole organisation, or of the deployment, sees how long it is kept.</p></Empty>} />}</Card>
      {changing && <Change of={changing} close={() => setChanging(undefined)} />}
    </Page>
  );
}

function Change({ of, close }: { of: Of; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [how, setHow] = useState<"ever" | "days">(of.keepDays === 0n ? "ever" : "days");
  const [days, setDays] = useState(of.keepDays === 0n ? "400" : of.keepDays.toString());
  const [hold, setHold] = useState(of.hold);
  const [reason, setReason] = useState(of.reason);
  const [sure, setSure] = useState(false);
  const count = /^\d{1,6}$/.test(days) ? Number(days) : undefined;
  const wrong = how === "days" && (count === undefined || count < least) ? `a number of days, at least ${least}` : undefined;
  const keepDays = how === "ever" ? 0 : (count ?? 0);
  const deletes = how === "days" && !wrong && !hold && (of.keepDays === 0n || keepDays < Number(of.keepDays) || of.hold);
  const request = { organisation: of.name, keepDays: BigInt(keepDays), hold, reason: reason.trim() };
  return (
    <FormDialog
      title={of.name ? `What is kept of ${of.name}` : "What is kept of everybody else"}
      close={close}
      act={act}
      kind={deletes ? "danger" : "primary"}
      label={deletes ? "Delete what is older" : "Keep it so"}
      disabled={wrong !== undefined || (hold && reason.trim() === "") || (deletes && !sure)}
      submit={() =>
        void act
          .run(() => api.audit.setRetention(request))
          .then((done) => {
            if (!done) return;
            void queries.invalidateQueries({ queryKey: ["audit", "retention"] });
            close();
          })
      }
      same={{
        cli: command("audit retention", [["org", of.name], ["keep-days", keepDays], [hold ? "hold" : "release", hold ? reason.trim() : of.hold], ["reason", hold ? "" : reason.trim()]]),
        api: call(AuditService.method.setRetention, request),
      }}
    >
      <Choice
        label="Bodies are kept"
        value={how}
        set={setHow}
        of={[
          { value: "ever", label: "for ever" },
          { value: "days", label: "for so many days" },
        ]}
      />
      {how === "days" && (
        <Field label="Days" hint="what no checkpoint covers, and what a sink has not got yet, is kept longer" error={wrong}>
          {(at) => <Input {...at} inputMode="numeric" required value={days} onChange={(e) => setDays(e.target.value.trim())} />}
        </Field>
      )}
      <label className="flex items-start gap-2">
        <input type="checkbox" checked={hold} onChange={(e) => setHold(e.target.checked)} className="mt-1" />
        <span>
          On hold
          <span className="block text-[12.5px] text-soft">nothing is deleted, however old, until the hold ends: for a case at law, say</span>
        </span>
      </label>
      <Field label="Why" hint={hold ? "a hold says why; it goes to the audit log" : "goes to the audit log"}>
        {(at) => <Input {...at} required={hold} maxLength={500} value={reason} onChange={(e) => setReason(e.target.value)} />}
      </Field>
      {deletes && (
        <label className="flex items-start gap-2 rounded-md border border-bad/40 bg-bad-wash px-3 py-2">
          <input type="checkbox" checked={sure} onChange={(e) => setSure(e.target.checked)} className="mt-1" />
          <span>Bodies of entries that are older than {keepDays.toLocaleString()} days are deleted. They cannot be brought back.</span>
        </label>
      )}
    </FormDialog>
  );
}
