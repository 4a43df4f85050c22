// Where in the tree organisation → project → workspace the console looks. The address holds it (?in=acme/shop/prod), so
// that a link shows what its sender saw.
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { api } from "../api/client";
import type { Workspace } from "../api/gen/loopback/v1/tenant_pb";

export interface Place extends Workspace {
  path: string; // organisation/project/workspace
}

export function usePlaces(): { places: Place[]; error: unknown } {
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
      return workspaces.items
        .map((w) => ({ ...w, path: [name.get(w.organisationId) ?? w.organisationId, name.get(w.projectId) ?? w.projectId, w.name].join("/") }))
        .sort((a, b) => a.path.localeCompare(b.path));
    },
  });
  return { places: all.data ?? [], error: all.error };
}

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
