// Passkeys, between the server's JSON and the browser (WebAuthn Level 3, 5.1.8 to 5.1.10).
import { api, fetchSession, type Trouble } from "./client";

const bytes = (text: string): ArrayBuffer => {
  const raw = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out.buffer;
};
const text = (of: ArrayBuffer): string => btoa(String.fromCharCode(...new Uint8Array(of))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

interface Described {
  type: PublicKeyCredentialType;
  id: string;
  transports?: AuthenticatorTransport[];
}
const described = (list: Described[] | undefined) => list?.map((c) => ({ ...c, id: bytes(c.id) }));

/** Why this page cannot have passkeys; undefined where it can. domain is what the server says that they are good for. */
export function without(domain: string, url: string): Trouble | undefined {
  const here = window.location.hostname;
  const trouble = (message: string, hint: string): Trouble => ({ code: "passkeys_unavailable", message, hint, violations: [], requestId: "" });
  if (!domain) return trouble("Passkeys need a domain name, and this control plane's address is none.", "An administrator gives it one: loopbackd --public-url https://NAME, with a certificate that browsers trust.");
  if (here !== domain) return trouble(`Passkeys are good for ${domain}, and this page was opened as ${here}.`, `Open ${url} instead.`);
  if (!("credentials" in navigator) || !window.PublicKeyCredential) return trouble("This browser has no passkeys here.", "Use a current browser, and open the page with a certificate that it trusts.");
  return undefined;
}

/** What went wrong when the browser was asked for one. */
function refusedBy(error: unknown): Trouble {
  const trouble = (code: string, message: string, hint: string): Trouble => ({ code, message, hint, violations: [], requestId: "" });
  const name = error instanceof DOMException ? error.name : "";
  const said = error instanceof Error ? error.message : "";
  if (/certificate/i.test(said)) return trouble("certificate_untrusted", "The browser has no passkeys for this page: it does not trust its certificate.", "Have the browser trust the control plane's CA (keys/ca.crt in its data folder), or give it a certificate of a public one.");
  if (name === "InvalidStateError") return trouble("passkey_exists", "This device keeps a passkey for you already.", "Sign in with it, or choose another device.");
  if (name === "SecurityError") return trouble("passkeys_unavailable", "The browser has no passkeys for this address.", "Open the console by the name that it was set up for.");
  if (name === "NotAllowedError" || name === "AbortError") return trouble("passkey_not_shown", "No passkey was shown: it was cancelled, took too long, or there is none here.", "Try again. If it fails at once, the browser may not trust the page's certificate.");
  return trouble("passkey_failed", said || "the browser could not be asked for a passkey", "Try again.");
}

/** Has an authenticator make one; what it answers is JSON for the server. */
export async function make(options: string): Promise<string> {
  const o = JSON.parse(options) as Omit<PublicKeyCredentialCreationOptions, "challenge" | "user" | "excludeCredentials"> & { challenge: string; user: { id: string; name: string; displayName: string }; excludeCredentials?: Described[] };
  let made: PublicKeyCredential;
  try {
    made = (await navigator.credentials.create({ publicKey: { ...o, challenge: bytes(o.challenge), user: { ...o.user, id: bytes(o.user.id) }, excludeCredentials: described(o.excludeCredentials) } })) as PublicKeyCredential;
  } catch (error) {
    throw refusedBy(error);
  }
  const answer = made.response as AuthenticatorAttestationResponse;
  return JSON.stringify({
    id: made.id,
    rawId: text(made.rawId),
    type: made.type,
    clientExtensionResults: {},
    response: { clientDataJSON: text(answer.clientDataJSON), attestationObject: text(answer.attestationObject), transports: answer.getTransports?.() ?? [] },
  });
}

/** Has an authenticator show one. */
export async function show(options: string): Promise<string> {
  const o = JSON.parse(options) as Omit<PublicKeyCredentialRequestOptions, "challenge" | "allowCredentials"> & { challenge: string; allowCredentials?: Described[] };
  let shown: PublicKeyCredential;
  try {
    shown = (await navigator.credentials.get({ publicKey: { ...o, challenge: bytes(o.challenge), allowCredentials: described(o.allowCredentials) } })) as PublicKeyCredential;
  } catch (error) {
    throw refusedBy(error);
  }
  const answer = shown.response as AuthenticatorAssertionResponse;
  return JSON.stringify({
    id: shown.id,
    rawId: text(shown.rawId),
    type: shown.type,
    clientExtensionResults: {},
    response: { clientDataJSON: text(answer.clientDataJSON), authenticatorData: text(answer.authenticatorData), signature: text(answer.signature), userHandle: answer.userHandle ? text(answer.userHandle) : undefined },
  });
}

/** Signs in with whichever passkey the browser has for this address. */
export async function signInByPasskey(): Promise<void> {
  const begun = await api.passkeys.beginPasskeySignIn({});
  await fetchSession({ passkey: { ceremony: begun.ceremony, response: await show(begun.options) } });
}

/** Shows anew that it is oneself: for a minute this sign-in may do acts of tier 0. */
export async function stepUp(): Promise<void> {
  const begun = await api.passkeys.beginStepUp({});
  await api.passkeys.finishStepUp({ ceremony: begun.ceremony, response: await show(begun.options) });
}

/** Makes a passkey of one's own. */
export async function register(name: string): Promise<void> {
  const begun = await api.passkeys.beginPasskeyRegistration({});
  await api.passkeys.finishPasskeyRegistration({ ceremony: begun.ceremony, response: await make(begun.options), name });
}

/** Makes the passkey that an invitation is for, and signs in. begun is the ceremony that opening it gave. */
export async function comeIn(invitation: string, begun: { ceremony: string; options: string }, name: string): Promise<void> {
  await fetchSession({ invitation, passkey: { ceremony: begun.ceremony, response: await make(begun.options), name } });
}
