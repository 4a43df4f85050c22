// Choosing whom and what an act on access is about. What is typed goes as it is: the server knows names and ids.
import { useId } from "react";
import { Field, Input, Select } from "../../ui/basics";
import { kindWords, useAll, useRoles, type SubjectKind } from "./names";

export interface Who {
  kind: SubjectKind;
  ref: string;
}

/** As a request of the API has it: exactly one field of the three. */
export function whoFields({ kind, ref }: Who): { user?: string; group?: string; serviceAccount?: string } {
  return kind === "user" ? { user: ref } : kind === "group" ? { group: ref } : { serviceAccount: ref };
}

export function whoFlag({ kind, ref }: Who): [string, string] {
  return [kind.replace("_", "-"), ref || "NAME"];
}

export function WhoFields({ value, set, kinds = ["user", "group", "service_account"], autoFocus }: { value: Who; set: (who: Who) => void; kinds?: readonly SubjectKind[]; autoFocus?: boolean }) {
  const list = useId();
  const known = useAll(value.kind);
  return (
    <div className="grid grid-cols-[9.5rem_1fr] gap-3">
      <Field label="Kind">
        {(at) => (
          <Select {...at} value={value.kind} onChange={(e) => set({ kind: e.target.value as SubjectKind, ref: "" })}>
            {kinds.map((k) => (
              <option key={k} value={k}>
                {kindWords[k]}
              </option>
            ))}
          </Select>
        )}
      </Field>
      <Field label="Who">
        {(at) => (
          <>
            <Input {...at} list={list} required autoFocus={autoFocus} value={value.ref} placeholder="name or id" onChange={(e) => set({ ...value, ref: e.target.value })} />
            <datalist id={list}>
              {known.map((k) => (
                <option key={k.id} value={k.name} />
              ))}
            </datalist>
          </>
        )}
      </Field>
    </div>
  );
}

export function RoleField({ value, set, any }: { value: string; set: (role: string) => void; any?: string }) {
  const roles = useRoles();
  return (
    <Field label="Role" hint={roles.find((r) => r.name === value || r.id === value)?.description || undefined}>
      {(at) => (
        <Select {...at} required={!any} value={value} onChange={(e) => set(e.target.value)}>
          <option value="">{any ?? "choose one"}</option>
          {value !== "" && !roles.some((r) => r.name === value) && <option value={value}>{value}</option>}
          {roles.map((r) => (
            <option key={r.id} value={r.name}>
              {r.name}
            </option>
          ))}
        </Select>
      )}
    </Field>
  );
}

export function PermissionInput({ value, set, known, id, "aria-describedby": describedBy }: { value: string; set: (permission: string) => void; known: readonly string[]; id: string; "aria-describedby"?: string }) {
  const list = useId();
  return (
    <>
      <Input id={id} aria-describedby={describedBy} list={list} required value={value} placeholder="hosts.remove" className="font-mono" onChange={(e) => set(e.target.value.trim())} />
      <datalist id={list}>
        {known.map((p) => (
          <option key={p} value={p} />
        ))}
      </datalist>
    </>
  );
}
