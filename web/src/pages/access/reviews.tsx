// What is held for good, looked at now and then by somebody else: reviews, newest first.
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { reviews as api } from "../../api/reviews";
import type { AccessReview } from "../../api/gen/loopback/v1/review_pb";
import { usePages } from "../../app/list";
import { access } from "../../app/pages";
import { paths } from "../../app/paths";
import { useSession } from "../../app/session";
import { spotOf, useSpots } from "../../app/spot";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Empty, Page, Problem, Select, State, Waiting, cx } from "../../ui/basics";
import { Table, type Column } from "../../ui/table";
import { ReviewForm } from "./reviewform";

const states = ["open", "done", "overdue", "cancelled"] as const;

export function Reviews() {
  const { why } = useSession();
  const { called } = useSpots();
  const search = useSearch({ strict: false }) as { state?: string };
  const navigate = useNavigate();
  const [making, setMaking] = useState(false);
  const state = states.find((s) => s === search.state) ?? "";
  const list = usePages(["reviews", "list", state], (token) => api.listAccessReviews({ states: state ? [state] : [], page: { size: 200, token } }));
  const open = (id: string) => void navigate({ to: paths.review(id) });
  const columns: Column<AccessReview>[] = [
    {
      key: "name",
      head: "Name",
      width: "minmax(9rem,2fr)",
      cell: (r) => (
        <Link to={paths.review(r.id)} className="font-medium hover:underline" title={r.description || r.name}>
          {r.name}
        </Link>
      ),
    },
    { key: "state", head: "State", width: "7.5rem", cell: (r) => <State kind="review" of={r.state} /> },
    { key: "left", head: "To answer", width: "7rem", cell: (r) => <span className={cx("tabular-nums", r.open === 0 && "text-soft")}>{`${r.open.toLocaleString()} of ${r.items.toLocaleString()}`}</span> },
    { key: "due", head: "Until", width: "6.5rem", narrow: "hide", cell: (r) => <Ago at={r.closedAt ?? r.dueAt} /> },
    { key: "where", head: "Where", width: "minmax(8rem,2fr)", narrow: "hide", cell: (r) => <span title={called(spotOf(r.scope))}>{called(spotOf(r.scope))}</span> },
    { key: "kept", head: "Kept", width: "5rem", narrow: "hide", cell: (r) => <Count of={r.kept} /> },
    { key: "revoked", head: "Revoked", width: "5.5rem", narrow: "hide", cell: (r) => <Count of={r.revoked} /> },
    { key: "unanswered", head: "Unanswered", width: "6.5rem", narrow: "hide", cell: (r) => <Count of={r.unanswered} tone={r.revokeUnanswered ? "" : "text-bad font-medium"} /> },
    { key: "gone", head: "Gone", width: "5rem", narrow: "hide", cell: (r) => <Count of={r.gone} /> },
  ];
  return (
    <Page
      title="Reviews"
      about="What is held for good, looked at by somebody else: kept with a rationale, or revoked."
      actions={
        <Button kind="primary" why={why("access_reviews.create")} onClick={() => setMaking(true)}>
          New review
        </Button>
      }
    >
      <Tabs of={access} />
      <Select aria-label="state" value={state} onChange={(e) => void navigate({ to: ".", search: ((old: object) => ({ ...old, state: e.target.value || undefined })) as never, replace: true })} className="w-40!">
        <option value="">All</option>
        {states.map((s) => (
          <option key={s}>{s}</option>
        ))}
      </Select>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table
            label="reviews"
            columns={columns}
            rows={list.rows}
            id={(r) => r.id}
            more={list.more}
            open={(r) => open(r.id)}
            empty={<Empty title={state ? `No review is ${state}` : "No review yet"}>{!state && <p>Roles that were given for good outlive their reason. A review has somebody else say of each whether it is still needed, and leaves what an auditor asks for.</p>}</Empty>}
          />
        )}
      </Card>
      {making && <ReviewForm close={() => setMaking(false)} done={open} />}
    </Page>
  );
}

function Count({ of, tone = "" }: { of: number; tone?: string }) {
  return <span className={cx("tabular-nums", of === 0 ? "text-soft" : tone)}>{of.toLocaleString()}</span>;
}
