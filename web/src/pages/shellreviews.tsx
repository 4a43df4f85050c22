// Recorded shells that somebody else has to look at.
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { parseDuration, formatDuration, seconds, toProto } from "../api/duration";
import { SessionReviewService, type SessionReview, type SessionReviewPolicy } from "../api/gen/loopback/v1/sessionreview_pb";
import { sessionReviews as api } from "../api/sessionreviews";
import { command } from "../api/shell";
import { usePages, useShown } from "../app/list";
import { shells } from "../app/pages";
import { paths } from "../app/paths";
import { useSession } from "../app/session";
import { atOf, spotOf, SpotSelect, useSpots } from "../app/spot";
import { Tabs } from "../app/tabs";
import { Ago, Button, buttonClass, Card, Dialog, Empty, Facts, Field, Input, Page, Problem, Select, State, Waiting } from "../ui/basics";
import { call, Choice, FormDialog, useAct } from "../ui/form";
import { Table, type Column } from "../ui/table";
import { RoleName } from "./access/names";
import { RoleField } from "./access/picks";

const stateOf = (r: SessionReview) => (r.overdue ? "overdue" : r.verdict || r.state);

export function ShellReviews() {
  const { why, may } = useSession();
  const search = useSearch({ strict: false }) as { open?: string; state?: string };
  const navigate = useNavigate();
  const [setting, setSetting] = useState(false);
  const set = (change: object) => void navigate({ to: ".", search: ((old: object) => ({ ...old, ...change })) as never, replace: true });
  const state = search.state ?? "open";
  const list = usePages(["session reviews", "list", state], (token) => api.listSessionReviews({ states: state === "open" || state === "done" ? [state] : [], overdue: state === "overdue", page: { size: 200, token } }));
  const columns: Column<SessionReview>[] = [
    {
      key: "session",
      head: "Session",
      width: "minmax(9rem,1.2fr)",
      cell: (r) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => set({ open: r.id })} title={r.sessionId}>
          {r.principalName} on {r.hostName}
        </button>
      ),
    },
    { key: "state", head: "State", width: "7.5rem", cell: (r) => <State kind="session-review" of={stateOf(r)} /> },
    { key: "because", head: "Because", width: "minmax(8rem,1fr)", narrow: "hide", cell: (r) => r.cause },
    { key: "why", head: "Opened for", width: "minmax(10rem,2fr)", narrow: "hide", cell: (r) => <span title={r.reason}>{r.ticket ? `${r.ticket}: ` : ""}{r.reason}</span> },
    { key: "due", head: "Due", width: "7rem", cell: (r) => (r.state === "open" ? <Ago at={r.dueAt} /> : "") },
    { key: "reviewer", head: "Reviewer", width: "minmax(7rem,1fr)", narrow: "hide", cell: (r) => r.reviewerName },
    { key: "ended", head: "Ended", width: "7rem", narrow: "hide", cell: (r) => <Ago at={r.endedAt} /> },
  ];
  const shown = useShown(list.rows, search.open, "session reviews", (sessionReview) => api.getSessionReview({ sessionReview }));
  return (
    <Page
      title="Session reviews"
      about="What was done in a shell is looked at by somebody who took no part in it: all that some roles gave, and a share of the others that is drawn by lot."
      actions={
        <Button kind="primary" why={why("session_reviews.set")} onClick={() => setSetting(true)}>
          What is looked at…
        </Button>
      }
    >
      <Tabs of={shells} />
      <Select aria-label="state" value={state} onChange={(e) => set({ state: e.target.value === "open" ? undefined : e.target.value })} className="w-40!">
        <option value="open">Waiting</option>
        <option value="overdue">Overdue</option>
        <option value="done">Looked at</option>
        <option value="any">All</option>
      </Select>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table
            label="session reviews"
            columns={columns}
            rows={list.rows}
            id={(r) => r.id}
            more={list.more}
            open={(r) => set({ open: r.id })}
            empty={
              <Empty title={state === "open" ? "No session waits" : "There is no such review"}>
                <p>Say which sessions somebody else has to look at: those of the roles that can do most, and a share of all.</p>
              </Empty>
            }
          />
        )}
      </Card>
      {may("session_reviews.read") && <Policies />}
      {setting && <PolicyForm close={() => setSetting(false)} />}
      {shown && <One key={shown.id} r={shown} close={() => set({ open: undefined })} />}
    </Page>
  );
}

function Policies() {
  const { called } = useSpots();
  const all = useQuery({ queryKey: ["session review policies"], queryFn: () => api.listSessionReviewPolicies({}) });
  const rows = all.data?.items ?? [];
  const columns: Column<SessionReviewPolicy>[] = [
    { key: "where", head: "Where", width: "minmax(9rem,1fr)", cell: (p) => called(spotOf(p.scope)) },
    {
      key: "roles",
      head: "All that these roles gave",
      width: "minmax(10rem,2fr)",
      cell: (p) => (p.roles.includes("*") ? "every role" : p.roles.length === 0 ? <span className="text-soft">none</span> : p.roles.map((r, i) => <span key={r}>{i > 0 && ", "}<RoleName id={r} /></span>)),
    },
    { key: "share", head: "Of the others", width: "7rem", cell: (p) => (p.sharePercent ? `${p.sharePercent} %` : "none") },
    { key: "within", head: "Within", width: "6rem", narrow: "hide", cell: (p) => formatDuration(seconds(p.within) ?? 0) },
  ];
  if (rows.length === 0) return null;
  return (
    <Card title="What is looked at" flush>
      <Table label="what is looked at" columns={columns} rows={rows} id={(p) => p.id} empty={null} />
    </Card>
  );
}

function PolicyForm({ close }: { close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const { flag } = useSpots();
  const [spot, setSpot] = useState("");
  const [role, setRole] = useState("");
  const [every, setEvery] = useState(false);
  const [roles, setRoles] = useState<readonly string[]>([]);
  const [share, setShare] = useState("5");
  const [within, setWithin] = useState("14d");
  const span = parseDuration(within);
  const named = every ? ["*"] : [...roles, ...(role && !roles.includes(role) ? [role] : [])];
  const request = { ...atOf(spot), reviewRoles: named, sharePercent: Number(share), within: span === undefined ? undefined : toProto(span) };
  return (
    <FormDialog
      title="What is looked at"
      close={close}
      act={act}
      label="From now on"
      disabled={span === undefined || share === ""}
      submit={() =>
        void act.run(() => api.setSessionReviewPolicy(request)).then((done) => {
          if (!done) return;
          void queries.invalidateQueries({ queryKey: ["session review policies"] });
          close();
        })
      }
      same={{ cli: command("session review require", [flag(spot), ["role", named], ["share", share], ["within", within]]), api: call(SessionReviewService.method.setSessionReviewPolicy, request) }}
    >
      <Field label="Sessions in" hint="In place of what was said for this place before.">
        {(at) => <SpotSelect {...at} value={spot} set={setSpot} />}
      </Field>
      <label className="flex items-center gap-2 text-[13px]">
        <input type="checkbox" checked={every} onChange={(e) => setEvery(e.target.checked)} /> Every session, whichever role gave it
      </label>
      {!every && (
        <>
          <RoleField value={role} set={setRole} any="no further role" />
          {role && (
            <Button onClick={() => { setRoles((old) => (old.includes(role) ? old : [...old, role])); setRole(""); }}>Another role as well</Button>
          )}
          {roles.length > 0 && <p className="text-[13px]">All that these gave: {roles.join(", ")}</p>}
        </>
      )}
      <div className="grid gap-4 sm:grid-cols-2">
        <Field label="Of the others, percent" hint="drawn by lot when the month is over; 0: none">
          {(at) => <Input {...at} type="number" min={0} max={100} required value={share} onChange={(e) => setShare(e.target.value)} />}
        </Field>
        <Field label="Within" error={span === undefined ? "write it like 14d" : undefined}>
          {(at) => <Input {...at} required value={within} onChange={(e) => setWithin(e.target.value.trim())} />}
        </Field>
      </div>
    </FormDialog>
  );
}

const verdicts = [
  { value: "fine", label: "Fine", means: "nothing was wrong" },
  { value: "follow_up", label: "Follow up", means: "nothing was wrong, but something is to be mended: a saved command, a permission" },
  { value: "violation", label: "Violation", means: "something was wrong" },
] as const;

function One({ r, close }: { r: SessionReview; close: () => void }) {
  const { why } = useSession();
  const { called } = useSpots();
  const queries = useQueryClient();
  const act = useAct();
  const [answering, setAnswering] = useState(false);
  const [verdict, setVerdict] = useState<(typeof verdicts)[number]["value"]>("fine");
  const [note, setNote] = useState("");
  if (answering) {
    const request = { sessionReview: r.id, verdict, note };
    return (
      <FormDialog
        title={`Verdict on ${r.principalName} on ${r.hostName}`}
        close={close}
        back={() => setAnswering(false)}
        act={act}
        label="Give it"
        disabled={verdict !== "fine" && !note.trim()}
        submit={() =>
          void act.run(() => api.answerSessionReview(request)).then((done) => {
            if (!done) return;
            void queries.invalidateQueries({ queryKey: ["session reviews"] });
            close();
          })
        }
        same={{ cli: command(`session review ${verdict.replace("_", "-")} ${r.sessionId}`, [["note", note]]), api: call(SessionReviewService.method.answerSessionReview, request) }}
      >
        <Choice label="Verdict" value={verdict} set={setVerdict} of={verdicts} />
        <Field label="Note" hint={verdict === "fine" ? undefined : "What is to be done, or what was wrong. An auditor reads it."}>
          {(at) => <Input {...at} maxLength={2048} value={note} onChange={(e) => setNote(e.target.value)} />}
        </Field>
      </FormDialog>
    );
  }
  return (
    <Dialog title={`${r.principalName} on ${r.hostName}`} open close={close}>
      <Facts
        of={[
          ["State", <State key="s" kind="session-review" of={stateOf(r)} />],
          ["Because", r.cause],
          ["Opened for", r.reason],
          ["Ticket", r.ticket],
          ["Where", called(spotOf(r.scope))],
          ["Ended", <Ago key="e" at={r.endedAt} />],
          ["Due", <Ago key="d" at={r.dueAt} />],
          ["Reviewer", r.reviewerName],
          ["Note", r.note],
          ["Reviewed", r.doneAt && <Ago key="o" at={r.doneAt} />],
        ]}
      />
      <div className="flex justify-end gap-2">
        <Button onClick={close}>Close</Button>
        <Link to={paths.shell(r.sessionId) as never} className={buttonClass()}>
          The recording
        </Link>
        {r.state === "open" && (
          <Button kind="primary" why={why("session_reviews.answer")} onClick={() => setAnswering(true)}>
            Verdict…
          </Button>
        )}
      </div>
    </Dialog>
  );
}
