import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { troubleOf } from "./api/client";
import { router } from "./app/router";
import { applyTheme, theme } from "./app/theme";
import { SignedIn } from "./app/session";
import "./style.css";

applyTheme(theme());

// Nothing is asked for on a timer: the stream of changes (app/live) says what to ask for again.
const queries = new QueryClient({
  defaultOptions: {
    queries: { staleTime: 10_000, refetchOnWindowFocus: false, retry: (count, error) => count < 3 && troubleOf(error).code === "unreachable" },
  },
});

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <SignedIn>
        <RouterProvider router={router} />
      </SignedIn>
    </QueryClientProvider>
  </StrictMode>,
);
