import { useSpots } from "../../app/spot";
import { Field, Select } from "../../ui/basics";

/** Whom a user, a group, an account or a role belongs to: an organisation by its name, or the deployment. */
export function OrganisationField({ value, set, label = "Belongs to", all = "the deployment" }: { value: string; set: (organisation: string) => void; label?: string; all?: string }) {
  const { spots } = useSpots();
  return (
    <Field label={label}>
      {(at) => (
        <Select {...at} value={value} onChange={(e) => set(e.target.value)}>
          <option value="">{all}</option>
          {spots
            .filter((s) => s.level === "organisation")
            .map((s) => (
              <option key={s.id} value={s.path}>
                {s.path}
              </option>
            ))}
        </Select>
      )}
    </Field>
  );
}
