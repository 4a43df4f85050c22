package rpc_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/server/rpc"
)

//go:generate go test -run ^TestThePermissionsPageIsFresh$ -update .

var update = flag.Bool("update", false, "write the generated page anew")

const pagePath = "../../docs/reference/permissions.md"

// page is the documentation of permissions, from their declaration and from the methods that need them.
func page() string {
	var b strings.Builder
	b.WriteString("<!-- Written by go generate ./server/rpc; edit permissions.go there, or the .proto files. -->\n# Permissions\n\n" +
		"Every method of the API needs exactly one permission, held over the place where the thing it acts on lives. A grant\n" +
		"over an organisation or a project holds for all within it. `*` in a grant is every permission of this page. What one\n" +
		"may not read is not found; what one may read but not do is denied, with the permission's name.\n\n" +
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
		"`hosts.enrol` and `hosts.rotate_key` (what hosts do themselves), `api_keys.use` (a key was refused) and\n" +
		"`bootstrap.issue` (a start printed a new code, or withdrew one).\n")
	return b.String()
}

func TestThePermissionsPageIsFresh(t *testing.T) {
	want := page()
	if *update {
		if err := os.WriteFile(pagePath, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(pagePath)
	if err != nil || string(got) != want {
		t.Errorf("%s is out of date (%v); run: go generate ./server/rpc", pagePath, err)
	}
}

func TestEverythingGrantableIsHeldByAll(t *testing.T) {
	a := access.Actor{Kind: access.APIKey, Grants: []access.Grant{{ID: "all", Permissions: []access.Permission{access.All}}}}
	for _, p := range rpc.Grantable() {
		if !a.Decide(p, access.Scope{}).Allowed {
			t.Errorf("%s is not held by %s", p, access.All)
		}
	}
}
