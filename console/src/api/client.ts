/** Requests to the API: the key, errors as RFC 9457 problems, event streams, uploads with progress. */
import type { paths } from "./schema";

/** What went wrong: what the API said, or that it did not answer (`status` 0). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly detail: string,
    readonly remedy = "",
    readonly errors: readonly { loc: string; msg: string }[] = [],
  ) {
    super(detail);
  }
}

const KEY = "soldiom.key";

/** The key lives in this tab's session storage: it ends with the tab, and is never in an address or on the disk's
 * local storage. Where storage is switched off it lives in memory. */
let memory: string | null = null;

export function storedKey(): string | null {
  try {
    return sessionStorage.getItem(KEY) ?? memory;
  } catch {
    return memory;
  }
}

export function storeKey(key: string | null): void {
  memory = key;
  try {
    if (key === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, key);
  } catch {
    // memory holds it
  }
}

/** Called when the API no longer takes the key. */
export const onRefusedKey: { call: () => void } = { call: () => undefined };

export const apiRoot: string = __API_URL__ || new URL("../", location.origin + location.pathname).href.replace(/\/$/, "");

export type Method = "get" | "post" | "put" | "delete";
type Path = keyof paths & string;
type Operation<P extends Path, M extends Method> = NonNullable<paths[P][M]>;
type Parameters<P extends Path, M extends Method> = Operation<P, M> extends { parameters: infer X } ? X : never;
type PathOf<P extends Path, M extends Method> = Parameters<P, M> extends { path: infer X } ? X : undefined;
type QueryOf<P extends Path, M extends Method> = Parameters<P, M> extends { query?: infer X } ? X : undefined;
type BodyOf<P extends Path, M extends Method> =
  Operation<P, M> extends { requestBody?: { content: { "application/json": infer X } } | undefined } ? X : undefined;

export interface Options<P extends Path, M extends Method> {
  path?: PathOf<P, M>;
  query?: QueryOf<P, M>;
  body?: BodyOf<P, M>;
  /** Makes a repeated request give what the first one made. */
  once?: string;
  signal?: AbortSignal | undefined;
  key?: string;
  /** A status that is an answer, too. */
  accepts?: number;
}

function address(path: string, parameters: unknown, query: unknown): string {
  let filled = path;
  for (const [name, value] of Object.entries((parameters ?? {}) as Record<string, string>))
    filled = filled.replace(`{${name}}`, encodeURIComponent(value));
  const pairs = Object.entries((query ?? {}) as Record<string, unknown>)
    .filter(([, value]) => value !== undefined && value !== null && value !== "")
    .map(([name, value]) => [name, String(value)]);
  const text = new URLSearchParams(pairs as string[][]).toString();
  return apiRoot + filled + (text ? `?${text}` : "");
}

/** The response; a Problem for every status from 400 on and where nobody answers. */
export async function respond<P extends Path, M extends Method>(
  method: M,
  path: P,
  options: Options<P, M> = {},
): Promise<Response> {
  const headers: Record<string, string> = { Accept: "application/json" };
  const key = options.key ?? storedKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (options.body !== undefined) headers["Content-Type"] = "application/json";
  if (options.once) headers["Idempotency-Key"] = options.once;
  const request: RequestInit = { method: method.toUpperCase(), headers, credentials: "omit", cache: "no-store" };
  if (options.body !== undefined) request.body = JSON.stringify(options.body);
  if (options.signal) request.signal = options.signal;
  let response: Response;
  try {
    response = await fetch(address(path, options.path, options.query), request);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem(0, "");
  }
  if (response.ok || response.status === options.accepts) return response;
  const problem = problemOf(response.status, await response.text());
  if (response.status === 401 && options.key === undefined) onRefusedKey.call();
  throw problem;
}

export function problemOf(status: number, text: string): Problem {
  try {
    const said = JSON.parse(text) as { detail?: string; remedy?: string; errors?: { loc: string; msg: string }[] };
    return new Problem(status, said.detail ?? "", said.remedy ?? "", said.errors ?? []);
  } catch {
    return new Problem(status, "");
  }
}

/** The JSON that a call answers, as the type that its caller names; null for an answer without content. */
export const request =
  <T>() =>
  async <P extends Path, M extends Method>(method: M, path: P, options: Options<P, M> = {}): Promise<T> => {
    const response = await respond(method, path, options);
    return (response.status === 204 ? null : await response.json()) as T;
  };

/** The data of server-sent events until the end of the stream. An event named `error` ends it with its Problem. */
export async function* events<T>(response: Response): AsyncGenerator<T> {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop() ?? "";
      for (const part of parts) {
        const lines = part.split("\n");
        const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data === "[DONE]") return;
        if (lines.includes("event: error")) throw problemOf(500, data);
        if (data) yield JSON.parse(data) as T;
      }
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}
