import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { expect, test } from "vitest";
import { troubleOf } from "./client";
import { HostService } from "./gen/loopback/v1/host_pb";

/** What a page is told of a call that the network, or whoever answers, ends so. */
async function told(answer: () => Promise<Response>) {
  const client = createClient(HostService, createConnectTransport({ baseUrl: "http://test.invalid", fetch: answer }));
  return client.listHosts({}).then(
    () => "nothing",
    (e: unknown) => troubleOf(e).code,
  );
}

const json = (body: string) => Promise.resolve(new Response(body, { headers: { "Content-Type": "application/json" } }));

test("a call that does not get through is told apart from an answer that cannot be read", async () => {
  expect(await told(() => Promise.reject(new TypeError("Failed to fetch")))).toBe("unreachable");
  expect(await told(() => Promise.resolve(new Response("<html>", { status: 502, headers: { "Content-Type": "text/html" } })))).toBe("unreachable");
  expect(await told(() => json(`{"items": [{"createdAt": "yesterday"}]}`))).toBe("unreadable");
  expect(await told(() => json(`{"items": [`))).toBe("unreadable");
});
