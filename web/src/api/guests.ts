// The API of guests of shells.
import { createClient } from "@connectrpc/connect";
import { transport } from "./client";
import { GuestService } from "./gen/loopback/v1/guest_pb";

export const guests = createClient(GuestService, transport);
