/**
 * The one way to ask the services. Types come from their OpenAPI (`npm run api`); addresses are relative to the page.
 *
 *   const { models } = await gateway.get("/models");
 *   await gateway.post("/save-image/", { body, headers: { "Idempotency-Key": key } });
 *   <img src={gateway.url("/predictions/{prediction_id}/image", { path: { prediction_id } })} />
 *
 * What goes wrong is an ApiError, whatever it was.
 */
import type { paths as GatewayPaths } from "./gateway.ts";
import type { paths as ViewerPaths } from "./viewer.ts";

export type { components as GatewayComponents } from "./gateway.ts";

export const TIMEOUT_MS = 30_000;

/** `code` is the services' own, or `unreachable`, `timeout`, `not_json` from here. `message` may be shown to a user. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly field: string | null = null,
    readonly requestId: string | null = null,
    /** Everything that was answered: a `run_active` also says `run_id`. */
    readonly body: unknown = null,
    readonly retryAfterSeconds: number | null = null,
  ) {
    super(message);
  }

  /** The same request may succeed later. */
  get isPassing(): boolean {
    return ["unreachable", "timeout"].includes(this.code) || this.status === 503 || this.status === 429;
  }
}

type Method = "get" | "post" | "put" | "patch" | "delete";
type PathsWith<Paths, M extends Method> = {
  [P in keyof Paths]: Paths[P] extends { [K in M]: { responses: unknown } } ? P : never;
}[keyof Paths] &
  string;
type Operation<Paths, P extends keyof Paths, M extends Method> = Paths[P] extends { [K in M]: infer O }
  ? O
  : never;
type Parameters<O, Place extends string> = O extends { parameters: { [K in Place]?: infer V } } ? V : never;
type JsonBody<O> = O extends { requestBody?: { content: { "application/json": infer B } } } ? B : never;
type Json<R> = R extends { content: { "application/json": infer B } } ? B : never;
type Answer<O> = O extends { responses: infer R }
  ? { [S in keyof R & (200 | 201 | 202)]: Json<R[S]> }[keyof R & (200 | 201 | 202)]
  : never;

/** path and query as the service's OpenAPI has them; `form` sends multipart instead of JSON. */
export interface Asked<O> {
  path?: NonNullable<Parameters<O, "path">>;
  query?: NonNullable<Parameters<O, "query">>;
  body?: JsonBody<O>;
  form?: FormData;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  timeoutMs?: number;
}

type Filled = Record<string, string | number | boolean | null | undefined>;

function address(base: string, path: string, fills: Filled = {}, query: Filled = {}): string {
  const filled = path.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = fills[name];
    if (value === undefined || value === null) throw new TypeError(`${path} needs ${name}`);
    return encodeURIComponent(String(value));
  });
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null) asked.append(name, String(one));
    }
  }
  return base + filled + (asked.size > 0 ? `?${asked}` : "");
}

async function ask(url: string, method: Method, asked: Asked<unknown>): Promise<unknown> {
  const limit = AbortSignal.timeout(asked.timeoutMs ?? TIMEOUT_MS);
  const headers = new Headers({ Accept: "application/json", ...asked.headers });
  const init: RequestInit = {
    method: method.toUpperCase(),
    headers,
    signal: asked.signal ? AbortSignal.any([asked.signal, limit]) : limit,
  };
  if (asked.form !== undefined) init.body = asked.form;
  else if (asked.body !== undefined) {
    init.body = JSON.stringify(asked.body);
    headers.set("Content-Type", "application/json");
  }
  let response: Response;
  let text: string;
  try {
    response = await fetch(url, init);
    text = await response.text();
  } catch (error) {
    if (asked.signal?.aborted) throw error; // whoever called it off knows
    if (limit.aborted) throw new ApiError(0, "timeout", "No answer in time. Try again in a moment.");
    throw new ApiError(0, "unreachable", "Emend does not answer. Is it still running?");
  }
  const requestId = response.headers.get("X-Request-Id");
  let body: unknown = null;
  try {
    if (text !== "") body = JSON.parse(text);
  } catch {
    throw new ApiError(
      response.status,
      "not_json",
      `The answer cannot be read (status ${response.status}).`,
      null,
      requestId,
    );
  }
  if (response.ok) return body;
  throw refusal(response, body, requestId);
}

function refusal(response: Response, body: unknown, requestId: string | null): ApiError {
  const told = (body as { error?: { code?: string; message?: string; field?: string } } | null)?.error;
  const wait = Number(response.headers.get("Retry-After"));
  return new ApiError(
    response.status,
    told?.code ?? `http_${response.status}`,
    told?.message ?? `The request was refused (status ${response.status}).`,
    told?.field ?? null,
    requestId,
    body,
    wait > 0 ? wait : null,
  );
}

function client<Paths>(base: string) {
  function method<M extends Method>(name: M) {
    return <P extends PathsWith<Paths, M>>(
      path: P,
      asked: Asked<Operation<Paths, P, M>> = {},
    ): Promise<Answer<Operation<Paths, P, M>>> =>
      ask(
        address(base, path, asked.path as Filled | undefined, asked.query as Filled | undefined),
        name,
        asked as Asked<unknown>,
      ) as Promise<Answer<Operation<Paths, P, M>>>;
  }
  return {
    get: method("get"),
    post: method("post"),
    put: method("put"),
    patch: method("patch"),
    delete: method("delete"),
    /** For <img>, links and streams. */
    url<P extends PathsWith<Paths, "get">>(
      path: P,
      asked: Pick<Asked<Operation<Paths, P, "get">>, "path" | "query"> = {},
    ): string {
      return address(base, path, asked.path as Filled | undefined, asked.query as Filled | undefined);
    },
  };
}

export const gateway = client<GatewayPaths>("api");
export const viewer = client<ViewerPaths>("runs");
