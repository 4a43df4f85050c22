// The API of who may do what.
import { createClient } from "@connectrpc/connect";
import { transport } from "./client";
import { AccessService, BindingService, RoleService } from "./gen/loopback/v1/policy_pb";
import { GroupService, ServiceAccountService, UserService } from "./gen/loopback/v1/principal_pb";

export const access = {
  bindings: createClient(BindingService, transport),
  groups: createClient(GroupService, transport),
  questions: createClient(AccessService, transport),
  roles: createClient(RoleService, transport),
  serviceAccounts: createClient(ServiceAccountService, transport),
  users: createClient(UserService, transport),
};
