/** Logging in at an OpenID Connect provider: the authorization code flow with PKCE (RFC 7636), as a public client. The
 * access token that comes of it is used and kept as a key is. */
import { signInWays } from "./api/calls";
import { Problem } from "./api/client";
import type { Login } from "./api/shapes";

const STARTED = "soldiom.login";

interface Started {
  state: string;
  verifier: string;
  hash: string;
}

/** Hashes need a page that came over HTTPS or from this machine. */
export const canLogIn = (): boolean => typeof crypto.subtle !== "undefined";

const encode = (bytes: Uint8Array): string =>
  btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const random = (): string => encode(crypto.getRandomValues(new Uint8Array(32)));
const here = (): string => location.origin + location.pathname;

/** Leaves for the provider, which leads back here. */
export async function startLogin(login: Login): Promise<void> {
  const started: Started = { state: random(), verifier: random(), hash: location.hash };
  const challenge = encode(new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(started.verifier))));
  sessionStorage.setItem(STARTED, JSON.stringify(started));
  const address = new URL(login.authorization_endpoint);
  const asked = {
    response_type: "code", client_id: login.client, redirect_uri: here(), scope: login.scope, state: started.state,
    code_challenge: challenge, code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(asked)) address.searchParams.set(name, value);
  location.assign(address);
}

const answer = (): URLSearchParams | null => {
  const parameters = new URLSearchParams(location.search);
  return parameters.has("state") && (parameters.has("code") || parameters.has("error")) ? parameters : null;
};

/** Whether this page was opened by a provider's answer. */
export const isAnswered = (): boolean => answer() !== null;

/** The token that the provider's answer stands for; the answer leaves the address at once. Null where there is none. A
 * Problem when it is no answer to what this tab asked, or the provider gives no token. */
export async function finishLogin(): Promise<string | null> {
  const given = answer();
  if (!given) return null;
  const started = JSON.parse(sessionStorage.getItem(STARTED) ?? "null") as Started | null;
  sessionStorage.removeItem(STARTED);
  history.replaceState(null, "", location.pathname + (started?.hash ?? ""));
  const code = given.get("code");
  const { login } = await signInWays();
  if (!login || !started || started.state !== given.get("state") || !code)
    throw new Problem(401, given.get("error_description") ?? given.get("error") ?? "");
  const body = new URLSearchParams({
    grant_type: "authorization_code", code, redirect_uri: here(), client_id: login.client, code_verifier: started.verifier,
  });
  const response = await fetch(login.token_endpoint, { method: "POST", body, credentials: "omit", cache: "no-store" });
  const token = response.ok ? ((await response.json()) as { access_token?: unknown }).access_token : null;
  if (typeof token !== "string") throw new Problem(401, "");
  return token;
}
