// What there is to open, and what one has to hold for it. Pages of one noun are behind one link, as tabs.
import { paths } from "./paths";

export interface PageOf {
  to: string;
  label: string;
  needs: string;
}

export interface Group {
  label: string;
  pages: readonly PageOf[];
}

const one = (to: string, label: string, needs: string): Group => ({ label, pages: [{ to, label, needs }] });

export const access: Group = {
  label: "Access",
  pages: [
    { to: paths.people, label: "People", needs: "users.read" },
    { to: paths.groups, label: "Groups", needs: "groups.read" },
    { to: paths.serviceAccounts, label: "Service accounts", needs: "service_accounts.read" },
    { to: paths.roles, label: "Roles", needs: "roles.read" },
    { to: paths.bindings, label: "Bindings", needs: "bindings.read" },
    { to: paths.reviews, label: "Reviews", needs: "access_reviews.read" },
    { to: paths.questions, label: "Questions", needs: "access.explain" },
    { to: paths.locks, label: "Locks", needs: "locks.read" },
  ],
};

export const commands: Group = {
  label: "Commands",
  pages: [
    { to: paths.commands, label: "Commands", needs: "exec.read" },
    { to: paths.savedCommands, label: "Saved commands", needs: "commands.read" },
    { to: paths.checks, label: "Checks", needs: "checks.run" },
  ],
};

export const shells: Group = {
  label: "Shells",
  pages: [
    { to: paths.shells, label: "Shells", needs: "shell_sessions.read" },
    { to: paths.shellReviews, label: "Reviews", needs: "session_reviews.read" },
    { to: paths.shellReport, label: "Report", needs: "shell_sessions.read" },
    { to: paths.shellRetention, label: "Retention", needs: "shell_sessions.read" },
  ],
};

export const grants: Group = {
  label: "Grants",
  pages: [
    { to: paths.grants, label: "Grants", needs: "grants.read" },
    { to: paths.grantPolicies, label: "Policies", needs: "grant_policies.read" },
  ],
};

export const audit: Group = {
  label: "Audit log",
  pages: [
    { to: paths.audit, label: "Entries", needs: "audit.read" },
    { to: paths.proof, label: "Proof", needs: "audit.verify" },
    { to: paths.sinks, label: "Sinks", needs: "sinks.read" },
    { to: paths.witnesses, label: "Witnesses", needs: "audit.verify" },
    { to: paths.retention, label: "Retention", needs: "audit.read" },
  ],
};

export const groups: readonly Group[] = [
  one(paths.overview, "Overview", "hosts.read"),
  one(paths.hosts, "Hosts", "hosts.read"),
  one(paths.enrol, "Enrol a host", "agent_tokens.mint"),
  one(paths.tokens, "Tokens", "agent_tokens.list"),
  one(paths.releases, "Releases", "releases.read"),
  one(paths.operations, "Operations", "operations.read"),
  commands,
  shells,
  grants,
  access,
  audit,
  one(paths.keys, "API keys", "api_keys.read"),
  one(paths.settings, "Settings", "settings.read"),
];

/** The page that an address is of: the one whose own address is the longest beginning of it. */
export function pageAt(address: string): PageOf | undefined {
  const all = groups.flatMap((g) => g.pages).filter((p) => (p.to === "/" ? address === "/" : address === p.to || address.startsWith(`${p.to}/`)));
  return all.sort((a, b) => b.to.length - a.to.length)[0];
}
