// Every address of the console, in one place.
export const paths = {
  overview: "/",
  hosts: "/hosts",
  host: (id: string) => `/hosts/${id}`,
  enrol: "/enrol",
  tokens: "/tokens",
  releases: "/releases",
  operations: "/operations",
  audit: "/audit",
  keys: "/keys",
  account: "/account",
  settings: "/settings",
} as const;
