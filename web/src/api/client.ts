// The API as the console calls it. The credential is a cookie that no script can read (see server/console).
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { ApiKeyService, SessionService } from "./gen/loopback/v1/apikey_pb";
import { AuditService } from "./gen/loopback/v1/audit_pb";
import { ChangeService } from "./gen/loopback/v1/change_pb";
import { ErrorDetailSchema, type ErrorDetail } from "./gen/loopback/v1/common_pb";
import { ExecService } from "./gen/loopback/v1/exec_pb";
import { HostService } from "./gen/loopback/v1/host_pb";
import { InvitationService } from "./gen/loopback/v1/invitation_pb";
import { OperationService } from "./gen/loopback/v1/operation_pb";
import { PasskeyService } from "./gen/loopback/v1/passkey_pb";
import { ReleaseService } from "./gen/loopback/v1/release_pb";
import { ReplicaService } from "./gen/loopback/v1/replica_pb";
import { ShellService } from "./gen/loopback/v1/shell_pb";
import { SettingsService } from "./gen/loopback/v1/settings_pb";
import { OrganisationService, ProjectService, WorkspaceService } from "./gen/loopback/v1/tenant_pb";
import { SignInService } from "./gen/loopback/v1/signin_pb";
import { TokenService } from "./gen/loopback/v1/token_pb";

const signedOut = new Set<() => void>();

/** Calls `do` whenever a call finds that nobody is signed in any more. */
export function onSignedOut(call: () => void): () => void {
  signedOut.add(call);
  return () => signedOut.delete(call);
}

let asker: ((ask: { done: () => void; give: () => void }) => void) | undefined;

/** `ask` is called when a call is refused until a passkey is shown; it has the person show it (done) or leave it (give). */
export function onStepUp(ask: NonNullable<typeof asker>): () => void {
  asker = ask;
  return () => {
    if (asker === ask) asker = undefined;
  };
}

let asking: Promise<boolean> | undefined;

/** Has the person show their passkey, once for all calls that wait for it; false where they leave it. */
export function showPasskey(): Promise<boolean> {
  asking ??= new Promise<boolean>((settled) => {
    if (!asker) return settled(false);
    asker({ done: () => settled(true), give: () => settled(false) });
  }).finally(() => (asking = undefined));
  return asking;
}

// A call that takes a fresh passkey was refused before anything was done: the person shows it in place, and the very same call is
// made once more. Streams are not; who opens one calls showPasskey and opens it again.
const freshly: Interceptor = (next) => async (request) => {
  try {
    return await next(request);
  } catch (error) {
    if (request.stream || troubleOf(error).code !== "step_up_required" || !(await showPasskey())) throw error;
    return next(request);
  }
};

/** By how much the control plane's clock is ahead of this computer's, in milliseconds: what is shown as "ago" is by its clock. */
export const clock = { ahead: 0 };

const notice: Interceptor = (next) => async (request) => {
  try {
    const answer = await next(request);
    const said = Date.parse(answer.header.get("date") ?? "");
    if (!Number.isNaN(said)) {
      const ahead = said - Date.now();
      clock.ahead = Math.abs(ahead) > 5_000 ? ahead : 0; // it says whole seconds, and was on its way
    }
    return answer;
  } catch (error) {
    if (ConnectError.from(error).code === Code.Unauthenticated) signedOut.forEach((call) => call());
    throw error;
  }
};

export const transport = createConnectTransport({ baseUrl: "/api", interceptors: [freshly, notice], useHttpGet: false });

// What the first page needs; what few pages need is beside it (access, grants, sinks), so that it comes with them.
export const api = {
  apiKeys: createClient(ApiKeyService, transport),
  audit: createClient(AuditService, transport),
  changes: createClient(ChangeService, transport),
  execs: createClient(ExecService, transport),
  hosts: createClient(HostService, transport),
  invitations: createClient(InvitationService, transport),
  operations: createClient(OperationService, transport),
  organisations: createClient(OrganisationService, transport),
  passkeys: createClient(PasskeyService, transport),
  projects: createClient(ProjectService, transport),
  releases: createClient(ReleaseService, transport),
  replicas: createClient(ReplicaService, transport),
  session: createClient(SessionService, transport),
  shells: createClient(ShellService, transport),
  settings: createClient(SettingsService, transport),
  signIns: createClient(SignInService, transport),
  tokens: createClient(TokenService, transport),
  workspaces: createClient(WorkspaceService, transport),
};

/** What went wrong, in the server's words. */
export interface Trouble {
  code: string;
  message: string;
  hint: string;
  violations: { field: string; message: string }[];
  requestId: string;
}

export function troubleOf(error: unknown): Trouble {
  if (isTrouble(error)) return error;
  const e = ConnectError.from(error);
  const detail: ErrorDetail | undefined = e.findDetails(ErrorDetailSchema)[0];
  // A call that did not get through ends with fetch's TypeError; what came and is no answer, with an error of whoever read it.
  if (!detail && e.code === Code.Unknown && e.cause instanceof Error && !(e.cause instanceof TypeError)) {
    return { code: "unreadable", message: "the control plane answered what this page cannot read", hint: "it may be newer than this page: reload it; if that does not help, something in between changes its answers", violations: [], requestId: "" };
  }
  if (!detail && (e.code === Code.Unknown || e.code === Code.Unavailable)) {
    return { code: "unreachable", message: "the control plane does not answer", hint: "it is tried again by itself; look at the network and at loopbackd", violations: [], requestId: "" };
  }
  if (!detail && e.code === Code.Unimplemented) {
    return { code: "unimplemented", message: "this control plane does not know that", hint: "it is older than this page: reload it, or update loopbackd", violations: [], requestId: "" };
  }
  return {
    code: detail?.code ?? Code[e.code] ?? "unknown",
    message: e.rawMessage,
    hint: detail?.hint ?? "",
    violations: detail?.violations.map((v) => ({ field: v.field, message: v.message })) ?? [],
    requestId: detail?.requestId ?? "",
  };
}

function isTrouble(error: unknown): error is Trouble {
  return typeof error === "object" && error !== null && "code" in error && "hint" in error && "violations" in error;
}

/** Trades an API key for the session's cookie. */
export function signIn(key: string): Promise<void> {
  return fetchSession({ key });
}

/** Trades what shows who one is for the session's cookie. */
export async function fetchSession(shown: object): Promise<void> {
  let answer: Response;
  try {
    answer = await fetch("/session", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(shown) });
  } catch (error) {
    throw troubleOf(error);
  }
  if (answer.ok) return;
  const said = (await answer.json().catch(() => ({}))) as Partial<Trouble>;
  throw { code: said.code ?? "unknown", message: said.message ?? answer.statusText, hint: said.hint ?? "", violations: [], requestId: "" } satisfies Trouble;
}

/** Ends this sign-in, or all of one's own. */
export async function signOut(everywhere = false): Promise<void> {
  const answer = await fetch(everywhere ? "/session?everywhere=true" : "/session", { method: "DELETE" }).catch((error: unknown) => {
    throw troubleOf(error);
  });
  if (answer.ok) return;
  const said = (await answer.json().catch(() => ({}))) as Partial<Trouble>;
  throw { code: said.code ?? "unknown", message: said.message ?? answer.statusText, hint: said.hint ?? "", violations: [], requestId: "" } satisfies Trouble;
}

const refusals: Record<string, [message: string, hint: string]> = {
  sign_in_state: ["that was not the answer to a sign-in that this browser began, or it took too long", "begin again, in one tab"],
  provider_unreachable: ["the identity provider does not answer as it should", "try again, or sign in by another way"],
  provider_refused: ["the provider did not let you in", ""],
  provider_token_invalid: ["what the provider says of who you are cannot be believed", "an administrator finds the cause in loopbackd's log"],
  provider_disabled: ["signing in by this provider is switched off", "choose another way"],
  provider_groups_incomplete: ["the provider did not say which groups you are in", "an administrator can have it put fewer groups in its token"],
  user_unknown: ["you are known to the provider, but not here", "ask an administrator to link you"],
  email_unverified: ["the provider does not vouch for your e-mail address", "verify it there, or ask an administrator to link you"],
  email_domain_denied: ["people with your e-mail address are not let in by themselves", "ask an administrator"],
  invitation_other_person: ["the invitation is for somebody else than the provider says you are", "open the link again and sign in at the provider as whom it is for, or make a passkey; an administrator can set your e-mail address"],
  invitation_invalid: ["the invitation is not valid", "open the whole link as you got it"],
  invitation_used: ["the invitation was used already", "if that was not you, tell an administrator at once; else sign in"],
  invitation_revoked: ["the invitation was taken back", "ask who sent it for another"],
  invitation_expired: ["the invitation has expired", "ask who sent it for another"],
  sign_in_user_gone: ["the user is disabled or was deleted", "ask an administrator"],
};

/** Why a provider's answer let nobody in, from the address that it ended on; that is taken out of the address. */
export function refusal(): Trouble | undefined {
  const url = new URL(window.location.href);
  const code = url.searchParams.get("sign-in");
  if (!code) return undefined;
  url.searchParams.delete("sign-in");
  window.history.replaceState(window.history.state, "", url);
  const [message, hint] = refusals[code] ?? ["signing in did not work", "try again; an administrator finds the cause in loopbackd's log"];
  return { code: refusals[code] ? code : "unknown", message, hint, violations: [], requestId: "" };
}

/** Has somebody sign in at a provider beside this page, which stays as it is. Settles when this browser is signed in. */
export async function signInBeside(provider: string, stop: AbortSignal): Promise<void> {
  window.open(`/oidc/begin?provider=${encodeURIComponent(provider)}&back=${encodeURIComponent("/signed-in")}`, "_blank", "noopener");
  // The other page cannot tell: on its way it was on the provider's site, which cuts the two apart.
  for (;;) {
    await new Promise((go) => setTimeout(go, 1000));
    if (stop.aborted) return;
    const here = await api.session.whoAmI({}).then(
      () => true,
      () => false,
    );
    if (here) return;
  }
}

/** Leaves for a provider with an invitation, and comes back signed in. The invitation's string is in no address. */
export async function leaveInvited(provider: string, invitation: string): Promise<void> {
  const answer = await fetch("/oidc/begin", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ provider, invitation }) }).catch((error: unknown) => {
    throw troubleOf(error);
  });
  const said = (await answer.json().catch(() => ({}))) as Partial<Trouble> & { location?: string };
  if (!answer.ok || !said.location) throw { code: said.code ?? "unknown", message: said.message ?? answer.statusText, hint: said.hint ?? "", violations: [], requestId: "" } satisfies Trouble;
  window.location.assign(said.location);
}

/** Leaves for a provider, and comes back to this page. */
export function leaveFor(provider: string): void {
  const back = window.location.pathname + window.location.search + window.location.hash;
  window.location.assign(`/oidc/begin?provider=${encodeURIComponent(provider)}&back=${encodeURIComponent(back)}`);
}
