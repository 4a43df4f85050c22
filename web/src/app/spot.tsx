// Where something holds: everywhere, or in an organisation, a project or a workspace. In an address and in a form it is one
// text ("workspace:ws_…", empty for everywhere); the API has a field for each, the command line a flag.
import { Select } from "../ui/basics";
import type { Scope } from "../api/gen/loopback/v1/common_pb";
import { usePlaces, type Level, type Spot } from "./place";

export interface At {
  organisation?: string;
  project?: string;
  workspace?: string;
}

export function atOf(spot: string): At {
  const [level, id] = spot.split(":");
  return id && (level === "organisation" || level === "project" || level === "workspace") ? { [level]: id } : {};
}

export function spotOf(scope: Pick<Scope, "organisationId" | "projectId" | "workspaceId"> | undefined): string {
  if (scope?.workspaceId) return `workspace:${scope.workspaceId}`;
  if (scope?.projectId) return `project:${scope.projectId}`;
  if (scope?.organisationId) return `organisation:${scope.organisationId}`;
  return "";
}

const flags: Record<Level, string> = { organisation: "in-org", project: "in-project", workspace: "in-workspace" };

export function useSpots() {
  const { spots } = usePlaces();
  const find = (spot: string): Spot | undefined => spots.find((s) => `${s.level}:${s.id}` === spot);
  return {
    spots,
    /** As people call it. */
    called: (spot: string): string => (spot === "" ? "everywhere" : (find(spot)?.path ?? spot.split(":")[1] ?? spot)),
    /** For a command that asks for a place. */
    flag: (spot: string): [string, string | boolean] => {
      const level = spot.split(":")[0] as Level;
      return spot === "" ? ["everywhere", true] : [flags[level], find(spot)?.path ?? spot.split(":")[1] ?? ""];
    },
  };
}

/** Whether one place is another or lies within it. */
export function within(inner: string, outer: string, spots: Spot[]): boolean {
  if (outer === "" || inner === outer) return true;
  const path = (s: string) => spots.find((x) => `${x.level}:${x.id}` === s)?.path;
  const [a, b] = [path(inner), path(outer)];
  return a !== undefined && b !== undefined && a.startsWith(`${b}/`);
}

export function SpotSelect({ value, set, everywhere = "Everywhere", inside = "", ...rest }: { value: string; set: (spot: string) => void; everywhere?: string; inside?: string; id?: string; "aria-label"?: string; className?: string }) {
  const { spots } = useSpots();
  return (
    <Select {...rest} value={value} onChange={(e) => set(e.target.value)}>
      {inside === "" && <option value="">{everywhere}</option>}
      {(["organisation", "project", "workspace"] as const).map((level) => {
        const some = spots.filter((s) => s.level === level && within(`${s.level}:${s.id}`, inside, spots));
        return (
          some.length > 0 && (
            <optgroup key={level} label={`${level}s`}>
              {some.map((s) => (
                <option key={s.id} value={`${s.level}:${s.id}`}>
                  {s.path}
                </option>
              ))}
            </optgroup>
          )
        );
      })}
    </Select>
  );
}
