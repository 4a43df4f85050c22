// Where in the tree organisation → project → workspace the console looks. The address holds it (?in=acme/shop/prod), so
// that a link shows what its sender saw.
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { api } from "../api/client";
import type { Workspace } from "../api/gen/loopback/v1/tenant_pb";

export interface Place extends Workspace {
  path: string; // organisation/project/workspace
  label: string; // path without what one may not read the name of
}

export type Level = "organisation" | "project" | "workspace";

/** Anywhere that something can hold: an organisation, a project or a workspace. */
export interface Spot {
  level: Level;
  id: string;
  path: string;
}

export function usePlaces(): { places: Place[]; spots: Spot[]; error: unknown } {
  const all = useQuery({
    queryKey: ["places"],
    staleTime: 60_000,
    queryFn: async () => {
      const [organisations, projects, workspaces] = await Promise.all([
        api.organisations.listOrganisations({ page: { size: 1000 } }).catch(() => ({ items: [] })),
        api.projects.listProjects({ page: { size: 1000 } }).catch(() => ({ items: [] })),
        api.workspaces.listWorkspaces({ page: { size: 1000 } }),
      ]);
      const name = new Map([...organisations.items, ...projects.items].map((x) => [x.id, x.name]));
      const called = (id: string) => name.get(id) ?? id;
      const places: Place[] = workspaces.items.map((w) => ({ ...w, path: [called(w.organisationId), called(w.projectId), w.name].join("/"), label: [name.get(w.organisationId), name.get(w.projectId), w.name].filter(Boolean).join("/") })).sort((a, b) => a.path.localeCompare(b.path));
      const spots: Spot[] = [
        ...organisations.items.map((o) => ({ level: "organisation" as const, id: o.id, path: o.name })),
        ...projects.items.map((p) => ({ level: "project" as const, id: p.id, path: `${called(p.organisationId)}/${p.name}` })),
        ...places.map((w) => ({ level: "workspace" as const, id: w.id, path: w.path })),
      ];
      return { places, spots: spots.sort((a, b) => a.path.localeCompare(b.path)) };
    },
  });
  return { places: all.data?.places ?? none.places, spots: all.data?.spots ?? none.spots, error: all.error };
}

const none: { places: Place[]; spots: Spot[] } = { places: [], spots: [] };

/** The chosen workspace's id; empty for all. Where there is only one it is chosen. */
export function usePlace(): { place: Place | undefined; workspace: string; places: Place[]; choose: (path: string) => void } {
  const { places } = usePlaces();
  const search = useSearch({ strict: false }) as { in?: string };
  const navigate = useNavigate();
  const place = places.find((p) => p.path === search.in || p.id === search.in) ?? (places.length === 1 ? places[0] : undefined);
  return {
    place,
    workspace: place?.id ?? "",
    places,
    choose: (path) => void navigate({ to: ".", search: ((old: Record<string, unknown>) => ({ ...old, in: path || undefined })) as never }),
  };
}
