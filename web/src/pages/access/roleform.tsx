// A role, made or changed. Who gains and loses what by a change is shown before it is made.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { access as api } from "../../api/access";
import { RoleService, type Permission, type Role } from "../../api/gen/loopback/v1/policy_pb";
import { command } from "../../api/shell";
import { atOf, spotOf, useSpots } from "../../app/spot";
import { useSession } from "../../app/session";
import { Field, Input } from "../../ui/basics";
import { call, FormDialog, useAct, useEdit } from "../../ui/form";
import { Diff } from "./diff";
import { OrganisationField } from "./organisation";
import { TierZero } from "./roles";

/** All that a role may name. */
export function usePermissions(): Permission[] {
  const { may } = useSession();
  return useQuery({ queryKey: ["permissions"], enabled: may("roles.read"), staleTime: Infinity, queryFn: () => api.roles.listPermissions({}) }).data?.items ?? [];
}

const sorted = (permissions: Iterable<string>) => [...permissions].sort().join(" ");

export function RoleForm({ role, close }: { role?: Role; close: () => void }) {
  const queries = useQueryClient();
  const { why, may } = useSession();
  const { called } = useSpots();
  const act = useAct();
  const [looking, setLooking] = useState(false);
  const [name, setName] = useState("");
  const { value, set, changed: edited, disputed, theirs } = useEdit({ description: role?.description ?? "", permissions: sorted(role?.permissions ?? []) }, { description: "What it is for", permissions: "Permissions" });
  const description = value("description");
  const [organisation, setOrganisation] = useState("");
  const chosen: ReadonlySet<string> = new Set(value("permissions").split(" ").filter(Boolean));
  const permissions = [...chosen];
  const changed = role !== undefined && edited("permissions") !== undefined;
  const making = { name, description, organisation, permissions };
  const updating = role && { role: role.id, description: edited("description"), permissions: changed ? permissions : [], revision: role.revision };
  const spot = spotOf(role?.scope);
  const send = async () => {
    if (changed && !looking) return setLooking(true);
    if (await act.run(() => (updating ? api.roles.updateRole(updating) : api.roles.createRole(making)))) {
      void queries.invalidateQueries({ queryKey: ["roles"] });
      close();
    }
  };
  const same = updating
    ? { cli: command(`role update ${updating.role}`, [["description", updating.description], ["permission", updating.permissions]]), api: call(RoleService.method.updateRole, updating) }
    : { cli: command(`role create ${name || "NAME"}`, [["description", description], ["org", organisation], ["permission", permissions]]), api: call(RoleService.method.createRole, making) };
  return (
    <FormDialog
      title={looking ? `Change ${role?.name} for everybody who has it?` : role ? `Change ${role.name}` : "New role"}
      wide
      close={close}
      back={looking ? () => setLooking(false) : undefined}
      act={act}
      submit={() => void send()}
      label={looking ? "Change it" : changed ? "See what changes" : disputed ? "Save mine over it" : role ? "Save" : "Make role"}
      why={looking || !role ? why(role ? "roles.update" : "roles.create") : ""}
      disabled={chosen.size === 0 || (role ? !changed && edited("description") === undefined : name === "")}
      same={same}
    >
      {looking && role ? (
        <Diff request={{ at: atOf(spot), role: role.id, permissions }} where={spot === "" ? "everywhere" : `in ${called(spot)}`} />
      ) : (
        <>
          {!role && (
            <div className="grid gap-4 sm:grid-cols-2">
              <Field label="Name">{(at) => <Input {...at} autoFocus required value={name} placeholder="labeller" onChange={(e) => setName(e.target.value)} />}</Field>
              <OrganisationField value={organisation} set={setOrganisation} />
            </div>
          )}
          <Field label="What it is for">{(at) => <Input {...at} autoFocus={role !== undefined} value={description} maxLength={500} onChange={(e) => set("description", e.target.value)} />}</Field>
          <Permissions chosen={chosen} set={(now) => set("permissions", sorted(now))} may={may} />
          {theirs}
        </>
      )}
    </FormDialog>
  );
}

/** All there are, by noun; those that the caller does not hold say so, since nobody gives what they do not hold. */
function Permissions({ chosen, set, may }: { chosen: ReadonlySet<string>; set: (chosen: ReadonlySet<string>) => void; may: (permission: string) => boolean }) {
  const all = usePermissions();
  const [wanted, setWanted] = useState("");
  const nouns = useMemo(() => {
    const out = new Map<string, Permission[]>();
    for (const p of all) {
      if (wanted && !p.name.includes(wanted) && !p.allows.includes(wanted)) continue;
      const noun = p.name.slice(0, p.name.indexOf("."));
      out.set(noun, [...(out.get(noun) ?? []), p]);
    }
    return [...out];
  }, [all, wanted]);
  const toggle = (name: string) => {
    const now = new Set(chosen);
    if (!now.delete(name)) now.add(name);
    set(now);
  };
  return (
    <fieldset className="flex min-w-0 flex-col gap-2">
      <legend className="mb-1 text-[13px] font-medium">Permissions: {chosen.size.toLocaleString()} chosen</legend>
      <Input type="search" aria-label="find permissions" placeholder="find: hosts, revoke…" value={wanted} onChange={(e) => setWanted(e.target.value.trim().toLowerCase())} />
      <div className="max-h-80 overflow-auto rounded-md border border-line">
        {!wanted && <One name="*" allows="everything but tier 0" held checked={chosen.has("*")} toggle={toggle} />}
        {nouns.map(([noun, some]) => (
          <div key={noun} className="border-t border-line/70 first:border-t-0">
            {!wanted && <One name={`${noun}.*`} allows={`everything of ${noun.replaceAll("_", " ")} but tier 0`} held checked={chosen.has(`${noun}.*`)} toggle={toggle} />}
            {some.map((p) => (
              <One key={p.name} name={p.name} allows={p.allows} zero={p.tierZero} held={may(p.name)} checked={chosen.has(p.name)} toggle={toggle} inner={!wanted} />
            ))}
          </div>
        ))}
        {nouns.length === 0 && <p className="px-3 py-4 text-center text-soft">No permission is called that.</p>}
      </div>
    </fieldset>
  );
}

function One({ name, allows, zero, held, checked, toggle, inner }: { name: string; allows: string; zero?: boolean; held: boolean; checked: boolean; toggle: (name: string) => void; inner?: boolean }) {
  return (
    <label className={inner ? "flex items-baseline gap-2 py-1 pr-3 pl-8 hover:bg-sunk/70" : "flex items-baseline gap-2 px-3 py-1.5 hover:bg-sunk/70"}>
      <input type="checkbox" name="permission" checked={checked} onChange={() => toggle(name)} className="translate-y-0.5" />
      <span className="min-w-0">
        <code className="font-mono text-[12.5px]">{name}</code> {zero && <TierZero />} <span className="text-[12px] text-soft">{allows}</span>
        {!held && <span className="text-[12px] text-warn"> – you do not hold it, so you cannot give it</span>}
      </span>
    </label>
  );
}
