// One person or service account: what is known of it, and what is done about it, in one dialog for both kinds.
import { useQueryClient } from "@tanstack/react-query";
import { useState, type ReactNode } from "react";
import { command } from "../../api/shell";
import { useSession } from "../../app/session";
import { Ago, Button, Dialog, Facts, State } from "../../ui/basics";
import { FormDialog, useAct, type Call } from "../../ui/form";
import { BelongsTo, Given, refresh, standing, WhatCan, type Principal } from "./principals";

/** What differs between the kinds. */
export interface Kind<P extends Principal> {
  subject: "user" | "service_account";
  noun: string; // on the command line
  permissions: string; // what theirs begin with
  means: { delete: string; disable: string; enable: string };
  remove: (p: P) => { api: Call; does: () => Promise<unknown> };
  disable: (p: P, disabled: boolean) => { api: Call; does: () => Promise<unknown> };
}

/** What a form of the dialog needs of it. */
export interface Within {
  close: () => void;
  back: () => void;
  act: ReturnType<typeof useAct>;
  run: (does: () => Promise<unknown>) => void; // and back to the dialog, where it was done
}

export function PrincipalDialog<P extends Principal>(props: {
  kind: Kind<P>;
  p: P;
  close: () => void;
  facts: [string, ReactNode][];
  change: (within: Within) => ReactNode;
  more?: { label: string; why: string; form: (within: Within) => ReactNode };
}) {
  const { kind, p, close } = props;
  const { why } = useSession();
  const queries = useQueryClient();
  const act = useAct();
  const [doing, setDoing] = useState<"change" | "disable" | "enable" | "delete" | "more">();
  const back = () => setDoing(undefined);
  const run = (does: () => Promise<unknown>) =>
    void act.run(does).then((done) => {
      if (!done) return;
      refresh(queries);
      back();
      if (doing === "delete") close();
    });
  const within = { close, back, act, run };
  if (doing === "change") return props.change(within);
  if (doing === "more") return props.more?.form(within);
  if (doing) {
    const { api, does } = doing === "delete" ? kind.remove(p) : kind.disable(p, doing === "disable");
    const title = { delete: `Delete ${p.name}?`, disable: `Disable ${p.name}?`, enable: `Let ${p.name} act again?` }[doing];
    const label = { delete: "Delete", disable: "Disable", enable: "Enable" }[doing];
    return (
      <FormDialog title={title} close={close} back={back} act={act} kind={doing === "enable" ? "primary" : "danger"} label={label} submit={() => run(does)} same={{ cli: command(`${kind.noun} ${doing} ${p.id}`), api }}>
        <p>{kind.means[doing]}</p>
        <Given subject={p.id} />
      </FormDialog>
    );
  }
  return (
    <Dialog title={p.name} open close={close}>
      <Facts
        of={[
          ["State", <State key="s" of={standing(p)} />],
          ...props.facts,
          ["Belongs to", <BelongsTo key="o" to={p.scope} />],
          ["Made", <Ago key="c" at={p.createdAt} />],
          ["Disabled", p.disabledAt && <Ago key="d" at={p.disabledAt} />],
          ["Id", <span key="i" className="font-mono text-[12.5px]">{p.id}</span>],
        ]}
      />
      <Given subject={p.id} />
      <WhatCan kind={kind.subject} name={p.name} />
      <div className="flex flex-wrap justify-end gap-2">
        <Button onClick={close}>Close</Button>
        {props.more && (
          <Button why={props.more.why} onClick={() => setDoing("more")}>
            {props.more.label}
          </Button>
        )}
        <Button why={why(`${kind.permissions}.update`)} onClick={() => setDoing("change")}>
          Change…
        </Button>
        <Button kind={p.disabledAt ? "plain" : "danger"} why={why(`${kind.permissions}.update`)} onClick={() => setDoing(p.disabledAt ? "enable" : "disable")}>
          {p.disabledAt ? "Enable…" : "Disable…"}
        </Button>
        <Button kind="danger" why={why(`${kind.permissions}.delete`)} onClick={() => setDoing("delete")}>
          Delete…
        </Button>
      </div>
    </Dialog>
  );
}
