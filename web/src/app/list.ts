// Lists that the server pages, by the token of the page before.
import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { useCallback, useMemo } from "react";
import { unread } from "../ui/table";

export function usePages<Item>(key: unknown[], fetch: (token: string) => Promise<{ items: Item[]; nextPageToken: string }>) {
  const list = useInfiniteQuery({ queryKey: key, queryFn: ({ pageParam }) => fetch(pageParam), initialPageParam: "", getNextPageParam: (last) => last.nextPageToken || undefined, placeholderData: (old) => old });
  const rows = useMemo(() => list.data?.pages.flatMap((p) => p.items) ?? unread, [list.data]);
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  const more = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);
  return { rows, more, pending: list.isPending, error: list.error, again: () => void list.refetch() };
}

/** What the address says is open: from the list where it is there, else asked for by itself. */
export function useShown<Item extends { id: string }>(rows: Item[], id: string | undefined, key: string, get: (id: string) => Promise<Item>): Item | undefined {
  const listed = rows.find((r) => r.id === id);
  const one = useQuery({ queryKey: [key, "one", id], enabled: id !== undefined && !listed, queryFn: () => get(id ?? ""), retry: false });
  return id === undefined ? undefined : (listed ?? one.data);
}
