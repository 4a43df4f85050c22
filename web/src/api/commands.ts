// The API of saved commands and of checks.
import { createClient } from "@connectrpc/connect";
import { transport } from "./client";
import { CommandService } from "./gen/loopback/v1/command_pb";

export const commands = createClient(CommandService, transport);
