import { useSyncExternalStore } from "react";

/** Whether a media query holds, now and as it changes. */
export function useMedia(query: string): boolean {
  return useSyncExternalStore(
    (call) => {
      const list = window.matchMedia(query);
      list.addEventListener("change", call);
      return () => list.removeEventListener("change", call);
    },
    () => window.matchMedia(query).matches,
  );
}
