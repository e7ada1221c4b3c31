/** A real HTTP server for tests: `const server = await serving((request, response) => ...)`, ended after the test. */
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { onTestFinished } from "vitest";

export interface Served {
  url: string;
  stop: () => void;
}

export async function serving(answer: RequestListener, port = 0): Promise<Served> {
  const server: Server = createServer(answer);
  await new Promise<void>((ready) => server.listen(port, "127.0.0.1", ready));
  const stop = () => {
    server.closeAllConnections();
    server.close();
  };
  onTestFinished(stop);
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, stop };
}
