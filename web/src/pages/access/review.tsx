// One review: who holds what, how it is used, and what was said of it. Many can be answered for at once.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { reviews as api } from "../../api/reviews";
import { AccessReviewService, type AccessReview, type AccessReviewItem } from "../../api/gen/loopback/v1/review_pb";
import { command } from "../../api/shell";
import { usePages } from "../../app/list";
import { paths } from "../../app/paths";
import { useSession } from "../../app/session";
import { spotOf, useSpots } from "../../app/spot";
import { Ago, Button, Card, Dialog, Empty, Facts, Field, Input, Page, Problem, Select, State, Waiting } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { Table, type Column } from "../../ui/table";
import { kindWords, type SubjectKind } from "./names";

type Verdict = "keep" | "revoke";

const answers = ["open", "kept", "revoked", "expired", "unanswered", "gone"] as const;
const atOnce = 100; // bindings that one call answers for

const whose = (i: AccessReviewItem) => i.subjectName || i.subjectId;

export function ReviewPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { why, who } = useSession();
  const { called } = useSpots();
  const search = useSearch({ strict: false }) as { answer?: string; open?: string };
  const navigate = useNavigate();
  const [selected, setSelected] = useState<ReadonlySet<string>>(new Set());
  const [doing, setDoing] = useState<{ what: Verdict; items: AccessReviewItem[] }>();
  const [ending, setEnding] = useState(false);
  const review = useQuery({ queryKey: ["reviews", "one", id], queryFn: () => api.getAccessReview({ accessReview: id }) });
  const r = review.data;
  const answer = search.answer === "all" ? "" : (answers.find((a) => a === search.answer) ?? (r?.state === "open" && r.open > 0 ? "open" : ""));
  const set = (change: object) => void navigate({ to: ".", search: ((old: object) => ({ ...old, ...change })) as never, replace: true });
  const list = usePages(["reviews", "items", id, answer], (token) => api.listAccessReviewItems({ accessReview: id, answers: answer ? [answer] : [], page: { size: 200, token } }));
  if (!r) return <Page title="Review">{review.error ? <Problem error={review.error} retry={() => void review.refetch()} /> : <Waiting />}</Page>;

  const open = r.state === "open";
  const own = (i: AccessReviewItem) => i.subjectId === who.principalId;
  const not = !open ? `the review is ${r.state}` : !who.principalId.startsWith("usr_") ? "only people answer, and you act as none" : why("access_reviews.answer");
  const selectable = answer === "open" && not === "";
  const chosen = list.rows.filter((i) => selected.has(i.bindingId) && i.answer === "open");
  const all = list.rows.filter((i) => !own(i));
  const shown = list.rows.find((i) => i.bindingId === search.open);
  const columns: Column<AccessReviewItem>[] = [
    {
      key: "who",
      head: "Who",
      width: "minmax(9rem,2fr)",
      cell: (i) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => set({ open: i.bindingId })} title={`${kindWords[i.subjectKind as SubjectKind] ?? i.subjectKind} ${whose(i)} (${i.subjectId})`}>
          {own(i) ? "you" : whose(i)} {i.subjectKind !== "user" && <span className="text-[12px] font-normal text-soft">{kindWords[i.subjectKind as SubjectKind] ?? i.subjectKind}</span>}
        </button>
      ),
    },
    { key: "role", head: "Role", width: "minmax(6rem,1fr)", cell: (i) => <span title={i.roleName || i.roleId}>{i.roleName || i.roleId}</span> },
    {
      key: "where",
      head: "Where",
      width: "minmax(7rem,1.5fr)",
      narrow: "hide",
      cell: (i) => (
        <span title={[called(spotOf(i.scope)), i.hosts].filter(Boolean).join(" ")}>
          {called(spotOf(i.scope))} {i.hosts && <span className="font-mono text-[12px] text-soft">{i.hosts}</span>}
        </span>
      ),
    },
    { key: "since", head: "Since", width: "6.5rem", narrow: "hide", cell: (i) => <Ago at={i.grantedAt} /> },
    { key: "act", head: "Last act", width: "6.5rem", narrow: "hide", cell: (i) => <Ago at={i.lastActAt} never="none" /> },
    { key: "seen", head: "Last seen", width: "6.5rem", narrow: "hide", cell: (i) => <Ago at={i.lastSeenAt} /> },
    { key: "answer", head: "Answer", width: "7.5rem", cell: (i) => <State kind="review" of={i.answer} reason={i.rationale} /> },
    { key: "why", head: "Rationale", width: "minmax(8rem,2fr)", narrow: "hide", cell: (i) => <span title={i.rationale}>{i.rationale}{i.answeredByName && <span className="text-soft"> — {i.answeredByName}</span>}</span> },
  ];
  return (
    <Page
      title={r.name}
      about={
        <>
          <Link to={paths.reviews} className="text-accent hover:underline">
            Reviews
          </Link>
          {r.description && ` · ${r.description}`}
        </>
      }
      actions={
        open && (
          <Button why={why("access_reviews.cancel")} onClick={() => setEnding(true)}>
            End it now…
          </Button>
        )
      }
    >
      <Card>
        <div className="grid gap-x-8 gap-y-1.5 lg:grid-cols-2">
          <Facts
            of={[
              ["State", <State key="s" kind="review" of={r.state} />],
              ["Of what is held", called(spotOf(r.scope))],
              ["Time to answer", <span key="d">ends <Ago at={r.dueAt} /></span>],
              ["Unanswered are", r.revokeUnanswered ? "revoked" : "left, and listed"],
              ["Closed", r.closedAt && <Ago key="c" at={r.closedAt} />],
            ]}
          />
          <Tally r={r} />
        </div>
      </Card>
      <div className="flex min-h-8 flex-wrap items-center gap-2">
        <Select aria-label="answer" value={answer || "all"} onChange={(e) => set({ answer: e.target.value })} className="w-48!">
          <option value="all">All bindings</option>
          {answers.map((a) => (
            <option key={a} value={a}>
              {a === "open" ? "to be answered" : a}
            </option>
          ))}
        </Select>
        {answer === "open" && not !== "" && <p className="text-soft">You answer for none of these: {not}.</p>}
        {chosen.length > 0 && (
          <div role="group" aria-label="with the selected" className="flex flex-wrap items-center gap-2">
            <p aria-live="polite" className="font-medium tabular-nums">
              {chosen.length.toLocaleString()} selected
            </p>
            <Button kind="primary" onClick={() => setDoing({ what: "keep", items: chosen })}>
              Keep…
            </Button>
            <Button kind="danger" onClick={() => setDoing({ what: "revoke", items: chosen })}>
              Revoke…
            </Button>
            <Button kind="quiet" onClick={() => setSelected(new Set())}>
              Select none
            </Button>
          </div>
        )}
      </div>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table
            label="bindings under review"
            columns={columns}
            rows={list.rows}
            id={(i) => i.bindingId}
            more={list.more}
            open={(i) => set({ open: i.bindingId })}
            selected={selectable ? selected : undefined}
            toggle={(binding) => setSelected((old) => (old.has(binding) ? new Set([...old].filter((b) => b !== binding)) : new Set([...old, binding])))}
            toggleAll={() => setSelected((old) => (all.every((i) => old.has(i.bindingId)) ? new Set() : new Set(all.map((i) => i.bindingId))))}
            empty={<Empty title={answer === "open" ? "Nothing is left to answer for" : "No binding is of that"}>{answer !== "" && <Button onClick={() => set({ answer: "all" })}>Show all bindings</Button>}</Empty>}
          />
        )}
      </Card>
      {shown && !doing && <One i={shown} not={shown.answer !== "open" ? "it was answered for" : own(shown) ? "nobody answers for what they hold themselves" : not} begin={(what) => setDoing({ what, items: [shown] })} close={() => set({ open: undefined })} />}
      {doing && (
        <Answer
          r={r}
          {...doing}
          close={() => setDoing(undefined)}
          done={() => {
            setDoing(undefined);
            setSelected(new Set());
            set({ open: undefined });
          }}
        />
      )}
      {ending && <End r={r} close={() => setEnding(false)} />}
    </Page>
  );
}

/** How far it is, in words and as a bar. */
function Tally({ r }: { r: AccessReview }) {
  const parts = [
    { label: "kept", count: r.kept, tone: "bg-good" },
    { label: "revoked", count: r.revoked, tone: "bg-bad" },
    { label: "unanswered", count: r.unanswered, tone: "bg-warn" },
    { label: "gone", count: r.gone, tone: "bg-soft" },
    { label: "to be answered", count: r.open, tone: "bg-line" },
  ].filter((p) => p.count > 0);
  return (
    <div className="flex flex-col gap-2">
      <div aria-hidden className="flex h-2 gap-px overflow-hidden rounded-full bg-sunk">
        {parts.map((p) => (
          <span key={p.label} className={p.tone} style={{ flexGrow: p.count }} />
        ))}
      </div>
      <ul aria-label="how far it is" className="flex flex-wrap gap-x-4 gap-y-1 tabular-nums">
        {parts.map((p) => (
          <li key={p.label} className="flex items-center gap-1.5">
            <span aria-hidden className={`size-2 rounded-full ${p.tone}`} />
            {p.count.toLocaleString()} {p.label}
          </li>
        ))}
      </ul>
    </div>
  );
}

function One({ i, not, begin, close }: { i: AccessReviewItem; not: string; begin: (what: Verdict) => void; close: () => void }) {
  const { called } = useSpots();
  return (
    <Dialog title={`${i.roleName || i.roleId} for ${whose(i)}`} open close={close}>
      <Facts
        of={[
          ["Who", `${kindWords[i.subjectKind as SubjectKind] ?? i.subjectKind} ${whose(i)}`],
          ["Where", called(spotOf(i.scope))],
          ["Hosts", i.hosts || "all, and everything else there"],
          ["Ends", <Ago key="e" at={i.notAfter} />],
          ["Why it was given", i.description],
          ["Given", <Ago key="g" at={i.grantedAt} />],
          ["By", <span key="b" className="font-mono text-[12.5px]">{i.grantedBy}</span>],
          ["Last act that rests on it", <Ago key="a" at={i.lastActAt} never="none of the last that are known" />],
          ["Last seen", <Ago key="s" at={i.lastSeenAt} />],
          ["Answer", <State key="v" kind="review" of={i.answer} />],
          ["Rationale", i.rationale],
          ["Answered", i.answeredAt && <span key="w"><Ago at={i.answeredAt} />{i.answeredByName && ` by ${i.answeredByName}`}</span>],
          ["Binding", <Link key="i" to={paths.bindings} search={{ open: i.bindingId } as never} className="font-mono text-[12.5px] text-accent hover:underline">{i.bindingId}</Link>],
        ]}
      />
      <div className="flex flex-wrap justify-end gap-2">
        <Button onClick={close}>Close</Button>
        {i.answer === "open" && (
          <>
            <Button kind="danger" why={not} onClick={() => begin("revoke")}>
              Revoke…
            </Button>
            <Button kind="primary" why={not} onClick={() => begin("keep")}>
              Keep…
            </Button>
          </>
        )}
      </div>
    </Dialog>
  );
}

function Answer({ r, what, items, close, done }: { r: AccessReview; what: Verdict; items: AccessReviewItem[]; close: () => void; done: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [rationale, setRationale] = useState("");
  const [said, setSaid] = useState(0); // of those, so many were taken
  const left = items.slice(said).map((i) => i.bindingId);
  const request = { accessReview: r.id, bindings: left.slice(0, atOnce), answer: what, rationale: rationale.trim() };
  const one = items.length === 1 ? items[0]! : undefined;
  const of = one ? `${one.roleName || one.roleId} ${what === "keep" ? "for" : "of"} ${whose(one)}` : `${items.length.toLocaleString()} bindings`;
  const submit = () =>
    void act
      .run(async () => {
        for (let from = said; from < items.length; from += atOnce) {
          const bindings = items.slice(from, from + atOnce).map((i) => i.bindingId);
          await api.answerAccessReview({ ...request, bindings });
          setSaid(from + bindings.length);
        }
      })
      .then((all) => {
        void queries.invalidateQueries({ queryKey: ["reviews"] });
        void queries.invalidateQueries({ queryKey: ["bindings"] });
        if (all) done();
      });
  return (
    <FormDialog
      title={what === "keep" ? `Keep ${of}?` : `Revoke ${of}?`}
      close={close}
      act={act}
      kind={what === "keep" ? "primary" : "danger"}
      label={what === "keep" ? "Keep" : "Revoke"}
      disabled={rationale.trim() === ""}
      submit={submit}
      same={{ cli: command(`review ${what} ${r.id} ${left.length > 3 ? `${left.slice(0, 3).join(" ")} …` : left.join(" ")}`, [["rationale", rationale.trim()]]), api: call(AccessReviewService.method.answerAccessReview, request) }}
    >
      {!one && (
        <ul aria-label="bindings" className="max-h-40 overflow-auto rounded-md border border-line px-3 py-1.5" tabIndex={0}>
          {items.map((i) => (
            <li key={i.bindingId} className="truncate">
              {whose(i)} <span className="text-soft">{i.roleName || i.roleId}</span>
            </li>
          ))}
        </ul>
      )}
      <p>{what === "keep" ? "It stands in the audit log, with your name and why." : "They end at once, everywhere, streams included. It stands in the audit log, with your name and why."}</p>
      {said > 0 && <p className="font-medium">{`${said.toLocaleString()} are answered for.`}</p>}
      <Field label="Rationale" hint="why; an auditor reads it">
        {(at) => <Input {...at} autoFocus required maxLength={500} value={rationale} onChange={(e) => setRationale(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}

function End({ r, close }: { r: AccessReview; close: () => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const [reason, setReason] = useState("");
  const request = { accessReview: r.id, reason: reason.trim() };
  return (
    <FormDialog
      title={`End ${r.name} now?`}
      close={close}
      act={act}
      kind="danger"
      label="End the review"
      submit={() =>
        void act
          .run(() => api.cancelAccessReview(request))
          .then((ended) => {
            if (!ended) return;
            void queries.invalidateQueries({ queryKey: ["reviews"] });
            close();
          })
      }
      same={{ cli: command(`review cancel ${r.id}`, [["reason", reason.trim()]]), api: call(AccessReviewService.method.cancelAccessReview, request) }}
    >
      <p>What was answered stays so. The {r.open.toLocaleString()} that are left are neither kept nor revoked, and nobody can answer for them any more.</p>
      <Field label="Reason" hint="goes to the audit log">
        {(at) => <Input {...at} autoFocus maxLength={500} value={reason} onChange={(e) => setReason(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}
