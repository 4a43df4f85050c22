package rpc_test

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/server/rpc"
)

//go:generate go test -run ^Test(ThePermissions|TheRoles)PageIsFresh$ -update .

var update = flag.Bool("update", false, "write the generated page anew")

const pagePath = "../../docs/reference/permissions.md"

// page is the documentation of permissions, from their declaration and from the methods that need them.
func page() string {
	var b strings.Builder
	b.WriteString("<!-- Written by go generate ./server/rpc; edit permissions.go there, or the .proto files. -->\n# Permissions\n\n" +
		"Every method of the API needs exactly one permission, held over the place where the thing it acts on lives, or on the\n" +
		"host. A binding over an organisation or a project holds for all within it. `*` in a role is every permission of this\n" +
		"page but those of tier 0. Which [roles](roles.md) hold what is a page of its own. What one may not read is not found; what one may read but not do is denied, with the permission's name.\n\n" +
		"| permission | allows one to | methods |\n| --- | --- | --- |\n")
	for _, p := range rpc.Permissions {
		var methods []string
		for _, m := range rpc.Methods() {
			if m.Permission == p.Name {
				methods = append(methods, "`"+strings.TrimPrefix(m.Procedure, "/loopback.v1.")+"`")
			}
		}
		b.WriteString("| `" + string(p.Name) + "` | " + p.Allows + " | " + strings.Join(methods, ", ") + " |\n")
	}
	b.WriteString("\nThe audit log also knows acts that no method stands for: `agent_tokens.use` (a host presented a token),\n" +
		"`hosts.enrol` and `hosts.rotate_key` (what hosts do themselves), `api_keys.use` (a key was refused),\n`sign_ins.use` (a sign-in was refused) and " +
		"`bootstrap.issue` (a start printed a new code, or withdrew one).\n")
	return b.String()
}

// rolesPage is what each role that is built in may call.
func rolesPage() string {
	var b strings.Builder
	roles := policy.BuiltIn()
	b.WriteString("<!-- Written by go generate ./server/rpc; edit package policy, or the .proto files. -->\n# Roles\n\n" +
		"These roles are built in. What each may call, bound over the whole deployment (a test calls every method of a running\n" +
		"control plane as each of them):\n\n| role | what it is |\n| --- | --- |\n")
	for _, r := range roles {
		b.WriteString("| `" + r.Name + "` | " + r.Description + " |\n")
	}
	b.WriteString("\n| method | permission |")
	for _, r := range roles {
		b.WriteString(" " + r.Name + " |")
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(roles)) + "\n")
	for _, m := range rpc.Methods() {
		b.WriteString("| `" + strings.TrimPrefix(m.Procedure, "/loopback.v1.") + "` | `" + string(m.Permission) + "` |")
		for _, r := range roles {
			if may := slices.Contains(rpc.Catalogue().List(rpc.Catalogue().Expand(r.Permissions)), m.Permission); may || m.Permission == access.SelfRead || access.Everybody(m.Permission) {
				b.WriteString(" yes |")
			} else if m.Permission == access.SelfManage {
				b.WriteString(" own |")
			} else {
				b.WriteString(" – |")
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n*own*: whoever signed in as themselves may, whatever their roles; an API key may not.\n")
	b.WriteString("\nPermissions of tier 0 (`" + strings.Join(texts(access.TierZero()), "`, `") + "`) are in none of them: wildcards do not match\n" +
		"them, and only bindings that end give them.\n")
	return b.String()
}

func texts(list []access.Permission) []string {
	var out []string
	for _, p := range list {
		out = append(out, string(p))
	}
	return out
}

func fresh(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s is out of date (%v); run: go generate ./server/rpc", path, err)
	}
}

func TestThePermissionsPageIsFresh(t *testing.T) { fresh(t, pagePath, page()) }

func TestTheRolesPageIsFresh(t *testing.T) { fresh(t, "../../docs/reference/roles.md", rolesPage()) }

func TestEverythingGrantableIsHeldByAll(t *testing.T) {
	a := access.GrantsAlone(access.Actor{Kind: access.APIKey, Grants: []access.Grant{{ID: "all", Permissions: []access.Permission{access.All}}}})
	for _, p := range rpc.Grantable() {
		if zero := slices.Contains(access.TierZero(), p); a.Decide(p, access.Scope{}).Allowed == zero {
			t.Errorf("%s is held by %s: %v, though it is of tier 0: %v", p, access.All, !zero, zero)
		}
	}
}
