// @vitest-environment node
import { describe, expect, it, onTestFinished } from "vitest";
import { type Served, serving } from "../test-server.ts";
import { ApiError, gateway } from "./client.ts";

/** Pages ask relative to themselves; Node has no page, so fetch is told one. */
function asPageOf(served: Served): void {
  const real = globalThis.fetch;
  globalThis.fetch = (input, init) => real(new URL(String(input), `${served.url}/`), init);
  onTestFinished(() => {
    globalThis.fetch = real;
  });
}

async function refused(promise: Promise<unknown>): Promise<ApiError> {
  const error = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(ApiError);
  return error as ApiError;
}

describe("asking a service", () => {
  it("fills the address, leaves out what is not given, and reads the answer", async () => {
    const asked: string[] = [];
    asPageOf(
      await serving((request, response) => {
        asked.push(`${request.method} ${request.url}`);
        response.setHeader("Content-Type", "application/json").end('{"name": "a/b"}');
      }),
    );
    expect(await gateway.get("/models/{name}", { path: { name: "a/b" } })).toEqual({ name: "a/b" });
    await gateway.get("/pipeline_runs", { query: { limit: 5, model: null } });
    expect(asked).toEqual(["GET /api/models/a%2Fb", "GET /api/pipeline_runs?limit=5"]);
  });

  it("sends JSON and headers", async () => {
    const seen: Record<string, unknown>[] = [];
    asPageOf(
      await serving((request, response) => {
        let body = "";
        request.on("data", (part) => {
          body += part;
        });
        request.on("end", () => {
          seen.push({ key: request.headers["idempotency-key"], type: request.headers["content-type"], body });
          response.writeHead(202).end('{"run_id": 3}');
        });
      }),
    );
    const headers = { "Idempotency-Key": "k" };
    expect(
      await gateway.post("/pipeline_runs", { body: { model: "doodles", force: false }, headers }),
    ).toEqual({
      run_id: 3,
    });
    expect(seen).toEqual([{ key: "k", type: "application/json", body: '{"model":"doodles","force":false}' }]);
  });

  it("refuses an address with a hole", () => {
    expect(() => gateway.url("/models/{name}")).toThrow(TypeError);
  });
});

describe("what goes wrong", () => {
  it("keeps the service's own words, field and request id", async () => {
    asPageOf(
      await serving((_, response) => {
        response.setHeader("X-Request-Id", "r1").writeHead(409);
        response.end('{"error": {"code": "run_active", "message": "wait", "field": "model"}, "run_id": 7}');
      }),
    );
    const error = await refused(gateway.post("/pipeline_runs"));
    expect(error).toMatchObject({
      status: 409,
      code: "run_active",
      message: "wait",
      field: "model",
      requestId: "r1",
      body: { run_id: 7 },
      isPassing: false,
    });
  });

  it("says when to come back", async () => {
    asPageOf(
      await serving((_, response) => {
        response
          .writeHead(503, { "Retry-After": "2" })
          .end('{"error": {"code": "unavailable", "message": "x"}}');
      }),
    );
    expect(await refused(gateway.get("/models"))).toMatchObject({ isPassing: true, retryAfterSeconds: 2 });
  });

  it("is told apart: no answer, too late, not JSON", async () => {
    const served = await serving((request, response) => {
      if (request.url === "/api/healthz") response.writeHead(502).end("<html>");
    });
    asPageOf(served);
    expect((await refused(gateway.get("/healthz"))).code).toBe("not_json");
    expect((await refused(gateway.get("/models", { timeoutMs: 50 }))).code).toBe("timeout");
    served.stop();
    const gone = await refused(gateway.get("/models"));
    expect(gone).toMatchObject({ code: "unreachable", isPassing: true });
  });

  it("is no ApiError when the page itself called it off", async () => {
    asPageOf(await serving(() => {}));
    const caller = new AbortController();
    const asking = gateway.get("/models", { signal: caller.signal });
    caller.abort();
    await expect(asking).rejects.toMatchObject({ name: "AbortError" });
  });
});
