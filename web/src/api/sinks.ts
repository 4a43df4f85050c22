// The API of where the audit log is sent to.
import { createClient } from "@connectrpc/connect";
import { transport } from "./client";
import { SinkService } from "./gen/loopback/v1/sink_pb";

export const sinks = createClient(SinkService, transport);
