// One grant, and what can be done about it by whom.
import { useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { grants as api } from "../../api/grants";
import { formatDuration, seconds } from "../../api/duration";
import { GrantService, type Grant } from "../../api/gen/loopback/v1/grant_pb";
import { command } from "../../api/shell";
import { paths } from "../../app/paths";
import { useSession } from "../../app/session";
import { spotOf, useSpots } from "../../app/spot";
import { Ago, Button, Dialog, Facts, Field, Input, State } from "../../ui/basics";
import { call, FormDialog, useAct } from "../../ui/form";
import { Actor, useName } from "../access/names";
import { Left } from "./left";

type Act = "approve" | "deny" | "revoke" | "cancel";

export function GrantDialog({ g, close }: { g: Grant; close: () => void }) {
  const { who } = useSession();
  const { called } = useSpots();
  const [doing, setDoing] = useState<Act>();
  const own = g.subjectId === who.principalId;
  const policy = useName("grant_policy", g.policyId);
  const name = own ? "you" : g.subjectName;
  if (doing) return <Decide g={g} act={doing} back={() => setDoing(undefined)} close={close} />;
  return (
    <Dialog title={`${g.roleName} for ${name}`} open close={close}>
      <Facts
        of={[
          ["State", <State key="s" kind="grant" of={g.state} />],
          ["Why", g.reason],
          ["Ticket", g.ticket],
          ["Where", called(spotOf(g.scope))],
          ["Hosts", g.hosts],
          ["For", formatDuration(seconds(g.duration) ?? 0)],
          ["Asked", <Ago key="a" at={g.createdAt} />],
          ["Open until", g.state === "pending" && <Ago key="o" at={g.expiresAt} />],
          ["Approvals", `${g.approvals.length} of ${g.approvalsNeeded}`],
          ["Webhook", g.webhook && `${g.webhook.allowed ? "allowed it" : "denied it"}${g.webhook.message && `: ${g.webhook.message}`}`],
          ["Left", g.state === "active" && <Left key="l" from={g.beganAt} until={g.notAfter} />],
          ["In force by", g.bindingId && <Link key="b" to={paths.bindings} search={{ open: g.bindingId } as never} className="text-accent hover:underline">its binding</Link>],
          ["Ended", g.endedAt && <span key="e"><Ago at={g.endedAt} />{g.endedBy && <> by <Actor id={g.endedBy} /></>}</span>],
          ["Comment", g.comment],
          ["Policy", <Link key="p" to={paths.grantPolicies} search={{ open: g.policyId } as never} className="text-accent hover:underline">{policy}</Link>],
          ["Id", <span key="i" className="font-mono text-[12.5px]">{g.id}</span>],
        ]}
      />
      {g.approvals.length > 0 && (
        <ul aria-label="approvals" className="divide-y divide-line/70 rounded-md border border-line">
          {g.approvals.map((a) => (
            <li key={a.userId} className="px-3 py-1.5">
              <span className="font-medium">{a.userName}</span> approved <Ago at={a.at} />
              {a.comment && <span className="text-soft wrap-anywhere">: {a.comment}</span>}
            </li>
          ))}
        </ul>
      )}
      <Acts g={g} own={own} close={close} begin={setDoing} />
    </Dialog>
  );
}

function Acts({ g, own, close, begin }: { g: Grant; own: boolean; close: () => void; begin: (act: Act) => void }) {
  const { why, who } = useSession();
  const approved = g.approvals.some((a) => a.userId === who.principalId);
  const not = own ? "nobody approves what they asked for themselves" : !who.principalId.startsWith("usr_") ? "only people approve, and you act as none" : approved ? "you approved it already; somebody else has to" : why("grants.approve");
  return (
    <div className="flex flex-wrap justify-end gap-2">
      <Button onClick={close}>Close</Button>
      {own && (g.state === "pending" || g.state === "active") && (
        <Button why={why("grants.request")} onClick={() => begin("cancel")}>
          {g.state === "pending" ? "Withdraw…" : "Give back…"}
        </Button>
      )}
      {g.state === "pending" && (
        <>
          <Button kind="danger" why={own ? "withdraw what you asked for yourself" : why("grants.approve")} onClick={() => begin("deny")}>
            Deny…
          </Button>
          <Button kind="primary" why={not} onClick={() => begin("approve")}>
            Approve…
          </Button>
        </>
      )}
      {g.state === "active" && (
        <Button kind="danger" why={why("grants.revoke")} onClick={() => begin("revoke")}>
          Revoke…
        </Button>
      )}
    </div>
  );
}

function Decide({ g, act: what, back, close }: { g: Grant; act: Act; back: () => void; close: () => void }) {
  const queries = useQueryClient();
  const { called } = useSpots();
  const act = useAct();
  const [comment, setComment] = useState("");
  const missing = g.approvalsNeeded - g.approvals.length;
  const request = { grant: g.id, comment: comment.trim() };
  const acts = {
    approve: {
      title: `Approve ${g.roleName} for ${g.subjectName}?`,
      means: missing > 1 ? `Yours is one of ${missing} approvals that it still needs.` : `Yours is the last approval that it needs: it is in force from then on, for ${formatDuration(seconds(g.duration) ?? 0)}.`,
      label: "Approve",
      do: () => api.approveGrant(request),
      api: call(GrantService.method.approveGrant, request),
    },
    deny: { title: `Deny ${g.roleName} to ${g.subjectName}?`, means: "The request ends. It can be asked for anew.", label: "Deny", do: () => api.denyGrant(request), api: call(GrantService.method.denyGrant, request) },
    revoke: { title: `Take ${g.roleName} back from ${g.subjectName}?`, means: "It ends at once, everywhere, streams included.", label: "Revoke", do: () => api.revokeGrant(request), api: call(GrantService.method.revokeGrant, request) },
    cancel: { title: g.state === "pending" ? "Withdraw the request?" : `Give ${g.roleName} back?`, means: g.state === "pending" ? "It can be asked for anew." : "It ends at once, everywhere, streams included.", label: g.state === "pending" ? "Withdraw" : "Give back", do: () => api.cancelGrant({ grant: g.id }), api: call(GrantService.method.cancelGrant, { grant: g.id }) },
  }[what];
  return (
    <FormDialog
      title={acts.title}
      close={close}
      back={back}
      act={act}
      kind={what === "approve" || what === "cancel" ? "primary" : "danger"}
      label={acts.label}
      submit={() =>
        void act.run(acts.do).then((done) => {
          if (!done) return;
          void queries.invalidateQueries({ queryKey: ["grants"] });
          close();
        })
      }
      same={{ cli: command(`grant ${what} ${g.id}`, [["comment", what === "cancel" ? "" : comment.trim()]]), api: acts.api }}
    >
      <Facts
        of={[
          ["Why", g.reason],
          ["Ticket", g.ticket],
          ["Where", called(spotOf(g.scope))],
          ["Hosts", g.hosts || "all, and everything else there"],
          ["For", formatDuration(seconds(g.duration) ?? 0)],
        ]}
      />
      <p>{acts.means}</p>
      {what !== "cancel" && (
        <Field label="Comment" hint="everybody who sees the grant reads it">
          {(at) => <Input {...at} autoFocus value={comment} maxLength={500} onChange={(e) => setComment(e.target.value)} />}
        </Field>
      )}
    </FormDialog>
  );
}
