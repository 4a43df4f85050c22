// Who was given which role, where and until when.
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useState } from "react";
import { access as api } from "../../api/access";
import { formatDuration, seconds } from "../../api/duration";
import { BindingService, type Binding } from "../../api/gen/loopback/v1/policy_pb";
import { command } from "../../api/shell";
import { usePages, useShown } from "../../app/list";
import { access } from "../../app/pages";
import { useSession } from "../../app/session";
import { atOf, spotOf, SpotSelect, useSpots } from "../../app/spot";
import { Tabs } from "../../app/tabs";
import { Ago, Button, Card, Dialog, Empty, Facts, Page, Problem, Waiting, cx, useNow } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { Table, type Column } from "../../ui/table";
import { BindingForm } from "./bindingform";
import { Diff } from "./diff";
import { RoleName, Subject, useName, type SubjectKind } from "./names";

export function Bindings() {
  const { why } = useSession();
  const search = useSearch({ strict: false }) as { at?: string; subject?: string; role?: string; open?: string };
  const navigate = useNavigate();
  const [making, setMaking] = useState(false);
  const { at = "", subject = "", role = "" } = search;
  const set = (change: object) => void navigate({ to: ".", search: ((old: object) => ({ ...old, ...change })) as never, replace: true });
  const list = usePages(["bindings", "list", at, subject, role], (token) => api.bindings.listBindings({ ...atOf(at), subject, role, page: { size: 200, token } }));
  const columns: Column<Binding>[] = [
    {
      key: "who",
      head: "Who",
      width: "minmax(10rem,2fr)",
      cell: (b) => (
        <button type="button" className="max-w-full truncate font-medium hover:underline" onClick={() => set({ open: b.id })}>
          <Subject kind={b.subjectKind} id={b.subjectId} />
        </button>
      ),
    },
    { key: "role", head: "Role", width: "minmax(7rem,1fr)", cell: (b) => <Effect b={b} /> },
    { key: "where", head: "Where", width: "minmax(8rem,2fr)", cell: (b) => <Where b={b} /> },
    { key: "hosts", head: "Hosts", width: "minmax(6rem,1fr)", narrow: "hide", cell: (b) => <span className={b.hosts ? "font-mono text-[12.5px]" : "text-soft"} title={b.hosts}>{b.hosts || "all"}</span> },
    { key: "conditions", head: "Only", width: "minmax(6rem,1fr)", narrow: "hide", cell: (b) => <span title={conditions(b)}>{conditions(b)}</span> },
    { key: "ends", head: "Ends", width: "6.5rem", narrow: "hide", cell: (b) => <Ago at={b.notAfter} /> },
  ];
  const shown = useShown(list.rows, search.open, "bindings", (binding) => api.bindings.getBinding({ binding }));
  const filtered = at !== "" || subject !== "" || role !== "";
  return (
    <Page
      title="Bindings"
      about="Who was given which role, where, and until when. What nothing gives is not allowed; a denial wins."
      actions={
        <Button kind="primary" why={why("bindings.create")} onClick={() => setMaking(true)}>
          New binding
        </Button>
      }
    >
      <Tabs of={access} />
      <div className="flex flex-wrap items-center gap-2">
        <SpotSelect aria-label="place" value={at} set={(v) => set({ at: v || undefined })} everywhere="In all places" className="w-64!" />
        {subject && (
          <Button kind="quiet" onClick={() => set({ subject: undefined })}>
            {subject} ×
          </Button>
        )}
        {role && (
          <Button kind="quiet" onClick={() => set({ role: undefined })}>
            {role} ×
          </Button>
        )}
      </div>
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>
        {list.pending ? (
          <Waiting />
        ) : (
          <Table
            label="bindings"
            columns={columns}
            rows={list.rows}
            id={(b) => b.id}
            more={list.more}
            open={(b) => set({ open: b.id })}
            empty={
              <Empty title={filtered ? "No binding is of that" : "No binding yet"}>
                {filtered ? <Button onClick={() => set({ at: undefined, subject: undefined, role: undefined })}>Show all bindings</Button> : <p>A binding gives a role to somebody. Until there is one, nobody but the first administrator may do anything.</p>}
              </Empty>
            }
          />
        )}
      </Card>
      {making && <BindingForm close={() => setMaking(false)} first={{ spot: at }} />}
      {shown && <One b={shown} close={() => set({ open: undefined })} />}
    </Page>
  );
}

function Effect({ b }: { b: Binding }) {
  const now = useNow();
  const over = b.notAfter && timestampDate(b.notAfter).getTime() <= now;
  return (
    <span className={cx(over && "opacity-60")}>
      {b.effect === "deny" && <span className="mr-1.5 font-medium text-bad">denied:</span>}
      <RoleName id={b.roleId} />
      {over && <span className="ml-1.5 text-[12px] text-soft">over</span>}
    </span>
  );
}

function Where({ b }: { b: Binding }) {
  const { called } = useSpots();
  const text = called(spotOf(b.scope));
  return <span title={text}>{text}</span>;
}

/** What has to be so, in one line. */
export function conditions(b: Binding): string {
  const c = b.conditions;
  const mfa = seconds(c?.mfaWithin);
  return [mfa && `second factor within ${formatDuration(mfa)}`, c?.addresses.length && `from ${c.addresses.join(", ")}`, c?.ticket && `ticket ${c.ticket}`].filter(Boolean).join("; ");
}

function One({ b, close }: { b: Binding; close: () => void }) {
  const { why } = useSession();
  const { called } = useSpots();
  const queries = useQueryClient();
  const act = useAct();
  const [deleting, setDeleting] = useState(false);
  const who = useName(b.subjectKind as SubjectKind, b.subjectId);
  const role = useName("role", b.roleId);
  const spot = spotOf(b.scope);
  const request = { binding: b.id };
  if (deleting) {
    return (
      <FormDialog
        title={b.effect === "deny" ? `Lift the denial of ${role} to ${who}?` : `Take ${role} from ${who}?`}
        wide
        close={close}
        back={() => setDeleting(false)}
        act={act}
        kind="danger"
        label="Delete the binding"
        why={why("bindings.delete")}
        submit={() =>
          void act.run(() => api.bindings.deleteBinding(request)).then((done) => {
            if (!done) return;
            void queries.invalidateQueries({ queryKey: ["bindings"] });
            close();
          })
        }
        same={{ cli: command(`binding delete ${b.id}`), api: call(BindingService.method.deleteBinding, request) }}
      >
        <p>It ends at once, everywhere, streams included.</p>
        <Diff request={{ at: atOf(spot), removeBindings: [b.id] }} where={spot === "" ? "everywhere" : `in ${called(spot)}`} />
      </FormDialog>
    );
  }
  return (
    <Dialog title={`${role} ${b.effect === "deny" ? "denied to" : "for"} ${who}`} open close={close}>
      <Facts
        of={[
          ["Who", <Subject key="w" kind={b.subjectKind} id={b.subjectId} />],
          ["Role", role],
          ["Effect", b.effect === "deny" ? "denies what the role holds" : "gives what the role holds"],
          ["Where", called(spot)],
          ["Hosts", b.hosts || "all, and everything else there"],
          ["Only", conditions(b)],
          ["Begins", b.notBefore && <Ago key="f" at={b.notBefore} />],
          ["Ends", <Ago key="t" at={b.notAfter} />],
          ["Why", b.description],
          ["Made", <Ago key="m" at={b.createdAt} />],
          ["By", <span key="b" className="font-mono text-[12.5px]">{b.createdBy}</span>],
          ["Id", <span key="i" className="font-mono text-[12.5px]">{b.id}</span>],
        ]}
      />
      <div className="flex justify-end gap-2">
        <Button onClick={close}>Close</Button>
        <Button kind="danger" why={why("bindings.delete")} onClick={() => setDeleting(true)}>
          Delete…
        </Button>
      </div>
    </Dialog>
  );
}
