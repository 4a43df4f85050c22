import { createRootRoute, createRoute, createRouter, lazyRouteComponent, Link } from "@tanstack/react-router";
import { Empty, Page, Problem, buttonClass } from "../ui/basics";
import { Live } from "./live";
import { paths } from "./paths";
import { Shell } from "./shell";
import { Overview } from "../pages/overview";
import { HostList } from "../pages/hosts";

// What an address may hold beside its path; what is not text is dropped.
function text(search: Record<string, unknown>, ...names: string[]) {
  const out: Record<string, string | undefined> = {};
  for (const name of ["in", ...names]) {
    const value = search[name];
    if (typeof value === "string" && value !== "") out[name] = value;
    else if (typeof value === "number") out[name] = String(value);
  }
  return out;
}

const root = createRootRoute({
  component: () => (
    <Live>
      <Shell />
    </Live>
  ),
  validateSearch: (search: Record<string, unknown>) => text(search),
  notFoundComponent: () => (
    <Page title="There is no such page">
      <Empty title="The address leads nowhere">
        <Link to="/" className={buttonClass()}>
          To the overview
        </Link>
      </Empty>
    </Page>
  ),
  errorComponent: ({ error, reset }) => (
    <Page title="This page failed">
      <Problem error={error} retry={reset} />
    </Page>
  ),
});

const overview = createRoute({ getParentRoute: () => root, path: "/", component: Overview });
export const hostsRoute = createRoute({ getParentRoute: () => root, path: "/hosts", component: HostList, validateSearch: (s: Record<string, unknown>) => text(s, "q", "state", "sort", "cols") });
const host = createRoute({ getParentRoute: () => root, path: "/hosts/$id", component: lazyRouteComponent(() => import("../pages/host"), "HostPage") });
const enrol = createRoute({ getParentRoute: () => root, path: "/enrol", component: lazyRouteComponent(() => import("../pages/enrol"), "Enrol") });
const tokens = createRoute({ getParentRoute: () => root, path: "/tokens", component: lazyRouteComponent(() => import("../pages/tokens"), "Tokens"), validateSearch: (s: Record<string, unknown>) => text(s, "state") });
const releases = createRoute({ getParentRoute: () => root, path: "/releases", component: lazyRouteComponent(() => import("../pages/releases"), "Releases") });
const operations = createRoute({ getParentRoute: () => root, path: "/operations", component: lazyRouteComponent(() => import("../pages/operations"), "Operations"), validateSearch: (s: Record<string, unknown>) => text(s, "state") });
const audit = createRoute({ getParentRoute: () => root, path: "/audit", component: lazyRouteComponent(() => import("../pages/audit"), "Audit"), validateSearch: (s: Record<string, unknown>) => text(s, "action", "target", "actor", "open") });
const keys = createRoute({ getParentRoute: () => root, path: "/keys", component: lazyRouteComponent(() => import("../pages/keys"), "Keys") });
const settings = createRoute({ getParentRoute: () => root, path: "/settings", component: lazyRouteComponent(() => import("../pages/settings"), "Settings") });

/** A page that is loaded when it is opened. */
function lazily<const Path extends string>(path: Path, load: () => Promise<Record<string, unknown>>, name: string, ...search: string[]) {
  return createRoute({ getParentRoute: () => root, path, component: lazyRouteComponent(load as never, name as never), validateSearch: (s: Record<string, unknown>) => text(s, ...search) });
}

const grants = lazily(paths.grants, () => import("../pages/grants/grants"), "Grants", "show", "mine", "open", "at");
const grantPolicies = lazily(paths.grantPolicies, () => import("../pages/grants/policies"), "Policies", "open");
const proof = lazily(paths.proof, () => import("../pages/audit/proof"), "Proof");
const sinks = lazily(paths.sinks, () => import("../pages/audit/sinks"), "Sinks", "open");
const witnesses = lazily(paths.witnesses, () => import("../pages/audit/witnesses"), "Witnesses", "open");
const retention = lazily(paths.retention, () => import("../pages/audit/retention"), "Retention");
const people = lazily(paths.people, () => import("../pages/access/people"), "People", "open");
const groups = lazily(paths.groups, () => import("../pages/access/groups"), "Groups", "open");
const serviceAccounts = lazily(paths.serviceAccounts, () => import("../pages/access/accounts"), "ServiceAccounts", "open");
const roles = lazily(paths.roles, () => import("../pages/access/roles"), "Roles", "open");
const bindings = lazily(paths.bindings, () => import("../pages/access/bindings"), "Bindings", "open", "at", "subject", "role");
const reviews = lazily(paths.reviews, () => import("../pages/access/reviews"), "Reviews", "state");
const review = lazily("/access/reviews/$id", () => import("../pages/access/review"), "ReviewPage", "answer", "open");
const questions = lazily(paths.questions, () => import("../pages/access/questions"), "Questions", "ask", "kind", "who", "permission", "at", "host", "selector", "address", "mfa", "ticket", "time");
const shellReviews = lazily(paths.shellReviews, () => import("../pages/shellreviews"), "ShellReviews", "open", "state");
const shellReport = lazily(paths.shellReport, () => import("../pages/shellreport"), "ShellReport", "days");
const shellRetention = lazily(paths.shellRetention, () => import("../pages/shellretention"), "ShellRetention");
const locks = lazily(paths.locks, () => import("../pages/access/locks"), "Locks", "open", "state");
const commands = lazily(paths.commands, () => import("../pages/commands"), "Commands");
const savedCommands = lazily(paths.savedCommands, () => import("../pages/commands/saved"), "SavedCommands", "show", "q");
const savedCommand = lazily("/commands/saved/$id", () => import("../pages/commands/savedpage"), "SavedCommandPage");
const checks = lazily(paths.checks, () => import("../pages/commands/checks"), "Checks");
const check = lazily("/commands/checks/$id", () => import("../pages/commands/check"), "CheckPage");
const command = lazily("/commands/$id", () => import("../pages/command"), "CommandPage");
const shells = lazily(paths.shells, () => import("../pages/shells"), "Shells", "state", "host");
const shell = lazily("/shells/$id", () => import("../pages/shell"), "ShellPage", "as");

const account = createRoute({ getParentRoute: () => root, path: "/account", component: lazyRouteComponent(() => import("../pages/account"), "Account") });
export const deviceRoute = createRoute({ getParentRoute: () => root, path: paths.device, component: lazyRouteComponent(() => import("../pages/device"), "DevicePage"), validateSearch: (s: Record<string, unknown>) => text(s, "code") });

export const router = createRouter({
  routeTree: root.addChildren([shells, shell, commands, savedCommands, savedCommand, checks, check, command, overview, hostsRoute, host, enrol, tokens, releases, operations, audit, keys, settings, account, deviceRoute, grants, grantPolicies, proof, sinks, people, groups, serviceAccounts, roles, bindings, reviews, review, questions, witnesses, retention, shellReviews, shellReport, shellRetention, locks]),
  defaultPreload: "intent",
  scrollRestoration: true,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
