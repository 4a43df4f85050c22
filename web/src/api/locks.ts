// The API of locks.
import { createClient } from "@connectrpc/connect";
import { transport } from "./client";
import { LockService } from "./gen/loopback/v1/lock_pb";

export const locks = createClient(LockService, transport);
