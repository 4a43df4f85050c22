// The API of roles for a while.
import { createClient } from "@connectrpc/connect";
import { transport } from "./client";
import { GrantPolicyService, GrantService } from "./gen/loopback/v1/grant_pb";

export const grants = createClient(GrantService, transport);
export const grantPolicies = createClient(GrantPolicyService, transport);
