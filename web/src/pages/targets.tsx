// Where something is run: chosen by labels, by names, or all of a workspace; and who that is, before it is begun.
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api/client";
import { quoted } from "../api/shell";
import { usePlace } from "../app/place";
import { Field, Input, Problem, Select, State } from "../ui/basics";
import { line } from "./words";

type Way = "selector" | "hosts" | "all";

/** How many hosts of a target are named; the rest is counted. */
const named = 100;

/** Hosts that take orders: all others are left out where a selector, or all, says where. */
const taking = ["managed", "degraded", "updating", "enrolling", "offline"];

/** fixed: the workspace that the hosts are of, where that is no choice. */
export function useTargets(fixed?: string) {
  const { place, places } = usePlace();
  const [form, setForm] = useState({ on: "selector" as Way, selector: "", hosts: "", workspace: place?.id ?? places[0]?.id ?? "" });
  const workspace = fixed ?? form.workspace;
  const names = form.hosts.split(/[\s,]+/).filter(Boolean);
  const selector = form.on === "selector" ? form.selector.trim() : "";
  const asked = form.on === "all" || selector !== "";
  const found = useQuery({
    queryKey: ["hosts", "targets", workspace, selector],
    enabled: asked && workspace !== "",
    queryFn: () => api.hosts.listHosts({ workspace, selector, states: taking, page: { size: named } }),
    retry: false,
  });
  const where = form.on === "all" ? "--all" : form.on === "hosts" ? line(names) || "HOSTS" : quoted(selector || "SELECTOR");
  return {
    form,
    set: (change: Partial<typeof form>) => setForm((old) => ({ ...old, ...change })),
    choosable: fixed === undefined && places.length > 1 ? places : [],
    /** For a request of the API. */
    request: { workspace, hosts: form.on === "hosts" ? names : [], selector, all: form.on === "all" },
    /** For a command: the hosts, and the workspace where there are several. */
    where,
    flag: places.length > 1 ? `--workspace ${quoted(places.find((p) => p.id === workspace)?.path ?? workspace)}` : "",
    found,
    /** How many hosts it reaches; undefined where that is not known. */
    reached: form.on === "hosts" ? names.length : asked ? found.data && Number(found.data.total) : 0,
  };
}

/** What the button says. */
export function runItOn(reached: number | undefined): string {
  return reached !== undefined && reached > 1 ? `Run it on ${reached.toLocaleString()} hosts` : "Run it";
}

export function Targets({ at, first }: { at: ReturnType<typeof useTargets>; first?: boolean }) {
  const { form, set, found } = at;
  const shown = form.on === "hosts" ? undefined : found.data;
  const count = at.reached === undefined ? undefined : `${at.reached.toLocaleString()} ${at.reached === 1 ? "host" : "hosts"}`;
  return (
    <>
      {at.choosable.length > 0 && (
        <Field label="Workspace">
          {(id) => (
            <Select {...id} value={form.workspace} onChange={(e) => set({ workspace: e.target.value })}>
              {at.choosable.map((p) => (
                <option key={p.id} value={p.id}>
                  {p.path}
                </option>
              ))}
            </Select>
          )}
        </Field>
      )}
      <Field label="On" hint={form.on === "hosts" ? count : form.on === "all" || form.selector.trim() ? count : "Labels, such as role=web or env in (prod, stage)."}>
        {(id) => (
          <div className="flex gap-2">
            <Select aria-label="how hosts are chosen" value={form.on} onChange={(e) => set({ on: e.target.value as Way })} className="w-36!">
              <option value="selector">Labels</option>
              <option value="hosts">These hosts</option>
              <option value="all">All hosts</option>
            </Select>
            {form.on === "selector" && <Input {...id} required autoFocus={first} placeholder="role=web" value={form.selector} onChange={(e) => set({ selector: e.target.value })} />}
            {form.on === "hosts" && <Input {...id} required placeholder="web-1 web-2" value={form.hosts} onChange={(e) => set({ hosts: e.target.value })} />}
          </div>
        )}
      </Field>
      {form.on !== "hosts" && found.error && <Problem error={found.error} />}
      {shown && shown.items.length > 0 && <HostNames of={shown.items.map((h) => ({ id: h.id, name: h.name, state: h.state }))} total={Number(shown.total)} />}
    </>
  );
}

/** Who it is done to, by name and state. */
export function HostNames({ of, total }: { of: readonly { id: string; name: string; state: string }[]; total: number }) {
  const shown = of.slice(0, named);
  return (
    <ul aria-label="hosts" tabIndex={0} className="max-h-40 divide-y divide-line/70 overflow-auto rounded-md border border-line">
      {shown.map((h) => (
        <li key={h.id} className="flex items-center gap-2 px-3 py-1">
          <span className="min-w-0 flex-1 truncate" title={h.name}>
            {h.name}
          </span>
          <State of={h.state} />
        </li>
      ))}
      {total > shown.length && <li className="px-3 py-1 text-soft">and {(total - shown.length).toLocaleString()} more</li>}
    </ul>
  );
}
