package audit

import (
	"encoding/json"
	"strings"
	"testing"
)

// borrower is a service account that may ask for a role with which groups are made, and its key.
func (b *bench) borrower(t *testing.T) (key string) {
	t.Helper()
	b.must(t, "grouper", "role", "create", "grouper", "--permission", "groups.*")
	b.must(t, "grouping", "grant-policy", "create", "grouping", "--role", "grouper", "--everywhere", "--approvals", "1", "--ticket-pattern", "OPS-[0-9]+", "--max-for", "1h")
	b.must(t, "robot", "service-account", "create", "robot")
	b.must(t, "rol_", "binding", "create", "--service-account", "robot", "--role", "member", "--everywhere")
	return strings.TrimSpace(b.must(t, "lbk_", "apikey", "create", "robot", "--service-account", "robot", "--permission", "*"))
}

// asked asks for the role and tells by which id.
func (b *bench) asked(t *testing.T, key string) string {
	t.Helper()
	code, out, complaint := b.as(t, key, "grant", "request", "--role", "grouper", "--everywhere", "--for", "30m", "--reason", "a new team", "--ticket", "OPS-7", "-o", "json")
	var g struct{ ID, State string }
	if err := json.Unmarshal([]byte(out), &g); err != nil || code != 0 || g.State != "pending" {
		t.Fatalf("exit code %d, %s%s, %v; want a request that waits", code, out, complaint, err)
	}
	return g.ID
}

// What the commands about grants and reviews say is what the control plane does.
func TestGrantsAndReviewsByCommandLine(t *testing.T) {
	b := start(t)
	key := b.borrower(t)
	ends := func(want int, says, key string, args ...string) {
		t.Helper()
		if code, out, complaint := b.as(t, key, args...); code != want || !strings.Contains(out+complaint, says) {
			t.Errorf("loopback %s: exit code %d, %s%s; want %d and %q", strings.Join(args, " "), code, out, complaint, want, says)
		}
	}
	request := []string{"grant", "request", "--role", "grouper", "--everywhere", "--reason", "a new team"}
	ends(2, "say where", key, "grant", "request", "--role", "grouper")
	ends(4, "needs a ticket", key, request...)
	ends(6, "cannot be asked for", key, "grant", "request", "--role", "owner", "--everywhere", "--reason", "x")
	ends(7, "stays open", key, append(request, "--ticket", "OPS-1", "--wait", "--timeout", "1s")...)
	ends(4, "groups.create", key, "group", "create", "early")

	id := b.asked(t, key)
	ends(0, id, b.Key, "grant", "list", "--state", "pending")
	ends(4, "grants.approve", key, "grant", "approve", id)
	ends(0, "active", b.Key, "grant", "approve", id, "--comment", "looked at the ticket")
	ends(6, "not pending", b.Key, "grant", "approve", id)
	ends(0, "active", key, "grant", "wait", id)
	ends(0, "team", key, "group", "create", "team")
	ends(0, "1 of 1", key, "grant", "show", id)
	ends(0, "revoked", b.Key, "grant", "revoke", id, "--comment", "done")
	ends(4, "groups.create", key, "group", "create", "late")
	ends(6, "revoked", key, "grant", "wait", id)
	for end, state := range map[string]string{"deny": "denied", "cancel": "cancelled"} {
		id := b.asked(t, key)
		who := b.Key
		if end == "cancel" {
			who = key
		}
		ends(0, state, who, "grant", end, id)
		ends(map[string]int{"deny": 4, "cancel": 6}[end], state, key, "grant", "wait", id)
	}
	ends(5, "not found", b.Key, "grant", "show", "gnt_06ey6t7p01bq85nx44fbgmhk18")

	ends(2, "say where", b.Key, "review", "create", "q3", "--within", "7d")
	ends(2, "--within", b.Key, "review", "create", "q3", "--everywhere")
	out := b.must(t, "open", "review", "create", "q3", "--everywhere", "--within", "7d", "-o", "json")
	var r struct{ ID string }
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	ends(0, "q3", b.Key, "review", "list", "--state", "open")
	out = b.must(t, "robot", "review", "bindings", r.ID, "--answer", "open", "-o", "json")
	var list struct {
		Items []struct{ BindingID, SubjectName, LastSeenAt string }
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	for _, i := range list.Items {
		if i.SubjectName != "robot" {
			ends(4, "nobody reviews access of their own", b.Key, "review", "keep", r.ID, i.BindingID, "--rationale", "mine")
			continue
		}
		if i.LastSeenAt == "" {
			t.Error("when the robot was last seen is not known")
		}
		ends(2, "--rationale", b.Key, "review", "revoke", r.ID, i.BindingID)
		ends(0, "revoked", b.Key, "review", "revoke", r.ID, i.BindingID, "--rationale", "no longer used")
		ends(6, "answered already", b.Key, "review", "keep", r.ID, i.BindingID, "--rationale", "after all")
	}
	ends(4, "needs", key, "grant", "list")
	ends(0, "cancelled", b.Key, "review", "cancel", r.ID, "--reason", "enough")
	ends(6, "cancelled", b.Key, "review", "cancel", r.ID)
}
