// Who and what is kept out, whatever is allowed: locked at once, and lifted.
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { locks as api } from "../../api/locks";
import { LockService, type Lock } from "../../api/gen/loopback/v1/lock_pb";
import { command } from "../../api/shell";
import { usePages, useShown } from "../../app/list";
import { access } from "../../app/pages";
import { useSession } from "../../app/session";
import { spotOf, useSpots } from "../../app/spot";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Dialog, Empty, Facts, Field, Input, Page, Problem, Select, State, Waiting } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { Table, type Column } from "../../ui/table";
import { LockForm } from "./lockform";

/** What a lock keeps out, in words. */
export function lockedOut(l: Lock): string {
  if (l.targetKind === "hosts") return l.hosts ? `hosts ${l.hosts}` : "every host";
  return `${l.targetKind.replace("_", " ")} ${l.name}`;
}

export function Locks() {
  const { why } = useSession();
  const { called } = useSpots();
  const search = useSearch({ strict: false }) as { open?: string; state?: string };
  const navigate = useNavigate();
  const [making, setMaking] = useState(false);
  const set = (change: object) => void navigate({ to: ".", search: ((old: object) => ({ ...old, ...change })) as never, replace: true });
  const state = search.state ?? "active";
  const list = usePages(["locks", "list", state], (token) => api.listLocks({ states: state === "any" ? [] : [state], page: { size: 200, token } }));
  const columns: Column<Lock>[] = [
    {
      key: "what",
      head: "Kept out",
      width: "minmax(11rem,1.5fr)",
      cell: (l) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => set({ open: l.id })} title={l.targetId}>
          {lockedOut(l)}
        </button>
      ),
    },
    { key: "state", head: "State", width: "6.5rem", cell: (l) => <State kind="lock" of={l.state} /> },
    { key: "where", head: "Where", width: "minmax(8rem,1fr)", narrow: "hide", cell: (l) => <span title={called(spotOf(l.scope))}>{called(spotOf(l.scope))}</span> },
    { key: "why", head: "Why", width: "minmax(10rem,2fr)", narrow: "hide", cell: (l) => <span title={l.reason}>{l.ticket ? `${l.ticket}: ` : ""}{l.reason}</span> },
    { key: "by", head: "By", width: "minmax(7rem,1fr)", narrow: "hide", cell: (l) => l.createdByName },
    { key: "until", head: "Until", width: "7.5rem", narrow: "hide", cell: (l) => (l.notAfter ? <Ago at={l.notAfter} /> : <span className="text-soft">lifted</span>) },
    { key: "since", head: "Since", width: "7rem", narrow: "hide", cell: (l) => <Ago at={l.createdAt} /> },
  ];
  const shown = useShown(list.rows, search.open, "locks", (lock) => api.getLock({ lock }));
  return (
    <Page
      title="Locks"
      about="What is locked is refused from now on, whatever is allowed, and what is under way there ends. All is as before once it is lifted."
      actions={
        <Button kind="danger" why={why("locks.create")} onClick={() => setMaking(true)}>
          Lock…
        </Button>
      }
    >
      <Tabs of={access} />
      <Select aria-label="state" value={state} onChange={(e) => set({ state: e.target.value === "active" ? undefined : e.target.value })} className="w-40!">
        <option value="active">In force</option>
        <option value="lifted">Lifted</option>
        <option value="ended">Ended</option>
        <option value="any">All</option>
      </Select>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table
            label="locks"
            columns={columns}
            rows={list.rows}
            id={(l) => l.id}
            more={list.more}
            open={(l) => set({ open: l.id })}
            empty={
              <Empty title={state === "active" ? "Nothing is locked" : "There is no such lock"}>
                <p>Lock a person whose laptop was stolen, a role that is abused, or a host that is to be left as it is.</p>
              </Empty>
            }
          />
        )}
      </Card>
      {making && <LockForm close={() => setMaking(false)} />}
      {shown && <One key={shown.id} l={shown} close={() => set({ open: undefined })} />}
    </Page>
  );
}

function One({ l, close }: { l: Lock; close: () => void }) {
  const { why } = useSession();
  const { called } = useSpots();
  const queries = useQueryClient();
  const act = useAct();
  const [lifting, setLifting] = useState(false);
  const [comment, setComment] = useState("");
  if (lifting) {
    const request = { lock: l.id, comment };
    return (
      <FormDialog
        title={`Let ${lockedOut(l)} in again?`}
        close={close}
        back={() => setLifting(false)}
        act={act}
        label="Lift the lock"
        submit={() =>
          void act.run(() => api.liftLock(request)).then((done) => {
            if (!done) return;
            void queries.invalidateQueries({ queryKey: ["locks"] });
            close();
          })
        }
        same={{ cli: command(`lock lift ${l.id}`, [["reason", comment]]), api: call(LockService.method.liftLock, request) }}
      >
        <p>Whatever was allowed before is allowed again at once. What the lock ended stays ended.</p>
        <Field label="Why it may be">{(at) => <Input {...at} autoFocus maxLength={512} value={comment} onChange={(e) => setComment(e.target.value)} />}</Field>
      </FormDialog>
    );
  }
  return (
    <Dialog title={`Lock of ${lockedOut(l)}`} open close={close}>
      <Facts
        of={[
          ["State", <State key="s" kind="lock" of={l.state} />],
          ["Where", called(spotOf(l.scope))],
          ["Why", l.reason],
          ["Ticket", l.ticket],
          ["Until", l.notAfter ? <Ago key="u" at={l.notAfter} /> : "it is lifted"],
          ["By", l.createdByName],
          ["Since", <Ago key="c" at={l.createdAt} />],
          ["Over", l.closedAt && <Ago key="o" at={l.closedAt} />],
          ["Comment", l.comment],
          ["Id", <span key="i" className="font-mono text-[12.5px]">{l.id}</span>],
        ]}
      />
      <div className="flex justify-end gap-2">
        <Button onClick={close}>Close</Button>
        {l.state === "active" && (
          <Button kind="primary" why={why("locks.lift")} onClick={() => setLifting(true)}>
            Lift…
          </Button>
        )}
      </div>
    </Dialog>
  );
}
