package rpc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/server/rpc"
)

// These tests walk every method of the API by reflection. A method that is added later is walked too; one whose request
// has a field that is neither known to name a resource nor known to be plain fails, until somebody says which it is.

// references are the fields that name a resource, with its kind. Every one of them is tried with foreign resources.
var references = map[protoreflect.Name]string{
	"organisation": "organisation", "project": "project", "workspace": "workspace", "to_workspace": "workspace",
	"token": "token", "host": "host", "hosts": "host", "operation": "operation", "api_key": "key",
	"target": "host", "actor": "key", "entry": "entry", "sink": "sink", "sign_in": "sign-in", "passkey": "passkey", "invitation": "invitation", "identity_provider": "idp", "user": "user", "users": "user", "service_account": "account", "group": "group", "role": "role", "binding": "binding",
	"grant": "grant", "grant_policy": "grant policy", "approvers": "group", "access_review": "review", "bindings": "binding",
	"lock": "lock", "session_review": "session review", "review_roles": "role", "subject": "user", "remove_bindings": "binding", "session": "session", "guest": "guest", "exec": "run", "command": "command", "transfer": "transfer",
}

// plain are the other fields that hold text or bytes, with something that they accept.
var plain = map[protoreflect.Name]string{
	"check": "disk", "pattern": "x", "module": "settings",
	"path": "/x", "owner": "", "term": "", "arguments": "", "stdin": "",
	"name": "intruder", "description": "x", "reason": "x", "request_id": "r-1", "address": "192.0.2.1", "provider": "manual",
	"verdict": "fine", "note": "x", "host_selector": "", "selector": "", "query": "", "search": "", "order_by": "", "states": "", "channel": "", "version": "", "program": "", "host_name_pattern": "",
	"allowed_networks": "10.0.0.0/8", "permissions": "hosts.read", "action": "", "remove": "role", "log_level": "info",
	"keep": "x", "copy": "x", "section": "settings", "winner": "host", "names": "mesh", "code": "0000", "sha256": "", "data": "", "roots": "", "targets": "",
	"kind": "webhook", "format": "json", "ca": "", "secret": "", "dead_letters": "",
	"comment": "x", "identity": "", "state": "", "webhook": "", "ticket_pattern": "",
	"answer": "keep", "answers": "", "rationale": "x",
	"agent":    "x",
	"ceremony": "x", "response": "{}",
	"kinds":             "",
	"invitation_secret": "x",
	"issuer":            "https://idp.example", "client_id": "x", "scopes": "", "domains": "", "groups_claim": "", "mfa_values": "",
	"email": "", "ticket": "", "addresses": "", "permission": "hosts.read",
	"release": "", // of the whole deployment: belongs to no workspace
}

// except are plain fields that a field of the same name elsewhere is not.
var except = map[protoreflect.FullName]string{
	"loopback.v1.RevokeTokenRequest.hosts":      "keep",
	"loopback.v1.Page.token":                    "",
	"loopback.v1.OpenShellRequest.user":         "", // of the host
	"loopback.v1.ExecCommand.user":              "",
	"loopback.v1.LinkIdentityRequest.subject":   "s-1", // who somebody is at a provider
	"loopback.v1.DeleteIdentityRequest.subject": "s-1",
	"loopback.v1.CreateSinkRequest.target":      "https://siem.example/in",
}

// deploymentWide are permissions over what belongs to no place: held anywhere, they let one read it.
var deploymentWide = []access.Permission{release.Read, audit.Verify, access.SelfRead, access.BootstrapRedeem, access.SignInBegin}

func TestEveryMethodNeedsOneDeclaredPermission(t *testing.T) {
	used := map[access.Permission]bool{}
	form := regexp.MustCompile(`^[a-z][a-z_]*\.[a-z][a-z_]*$`)
	for _, m := range rpc.Methods() {
		used[m.Permission] = true
		if !slices.ContainsFunc(rpc.Permissions, func(p rpc.Permission) bool { return p.Name == m.Permission }) {
			t.Errorf("%s needs %q, which is not declared", m.Procedure, m.Permission)
		}
		if !form.MatchString(string(m.Permission)) {
			t.Errorf("%s needs %q, want the form noun.verb", m.Procedure, m.Permission)
		}
	}
	seen := map[access.Permission]bool{}
	used[access.SignInBegin] = true // by the console's own paths
	for _, p := range rpc.Permissions {
		if !used[p.Name] {
			t.Errorf("%s is declared, and no method needs it", p.Name)
		}
		if seen[p.Name] || p.Allows == "" {
			t.Errorf("%s is declared twice or without what it allows", p.Name)
		}
		seen[p.Name] = true
	}
}

func TestEveryFieldIsKnown(t *testing.T) {
	for _, m := range rpc.Methods() {
		walk(m.Descriptor.Input(), func(f protoreflect.FieldDescriptor) {
			_, r := references[f.Name()]
			_, p := plain[f.Name()]
			_, e := except[f.FullName()]
			if !r && !p && !e {
				t.Errorf("%s: does %s name a resource, or is it plain? add it to one of the two", m.Procedure, f.FullName())
			}
		})
	}
}

// walk visits the fields of a message that hold text or bytes, those of messages inside it included; maps apart.
func walk(m protoreflect.MessageDescriptor, visit func(protoreflect.FieldDescriptor)) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		switch {
		case f.IsMap():
		case f.Kind() == protoreflect.StringKind, f.Kind() == protoreflect.BytesKind:
			visit(f)
		case f.Kind() == protoreflect.MessageKind && strings.HasPrefix(string(f.Message().FullName()), "loopback."):
			walk(f.Message(), visit)
		}
	}
}

// request builds a method's request: plain fields with what they accept, references as they are given.
func request(t *testing.T, m rpc.Method, refs map[protoreflect.Name]string) string {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(m.Descriptor.Input().FullName())
	if err != nil {
		t.Fatal(err)
	}
	msg := kind.New()
	for i := range msg.Descriptor().Fields().Len() {
		f := msg.Descriptor().Fields().Get(i)
		if f.Name() == "timeout" && f.Kind() == protoreflect.MessageKind {
			msg.Set(f, protoreflect.ValueOfMessage(durationpb.New(time.Millisecond).ProtoReflect())) // waiting is not what is tested
		}
		if f.IsMap() || f.Kind() != protoreflect.StringKind && f.Kind() != protoreflect.BytesKind {
			continue
		}
		value := plain[f.Name()]
		if e, ok := except[f.FullName()]; ok {
			value = e
		} else if _, ok := references[f.Name()]; ok {
			value = refs[f.Name()]
		}
		switch {
		case value == "":
		case f.IsList():
			list := msg.Mutable(f).List()
			list.Append(protoreflect.ValueOfString(value))
		case f.Kind() == protoreflect.StringKind:
			msg.Set(f, protoreflect.ValueOfString(value))
		}
	}
	b, err := protojson.Marshal(msg.Interface())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// refsOf are the fields of a request that name a resource.
func refsOf(m rpc.Method) []protoreflect.FieldDescriptor {
	var out []protoreflect.FieldDescriptor
	for i := range m.Descriptor.Input().Fields().Len() {
		f := m.Descriptor.Input().Fields().Get(i)
		if _, ok := except[f.FullName()]; ok {
			continue
		}
		if _, ok := references[f.Name()]; ok && f.Kind() == protoreflect.StringKind {
			out = append(out, f)
		}
	}
	return out
}

// call is the status and the body of an answer, without what differs between any two.
func (w *world) call(t *testing.T, m rpc.Method, as, body string) (int, string) {
	t.Helper()
	if m.Descriptor.IsStreamingServer() {
		return w.stream(t, m, as, body)
	}
	res, text := w.post(t, m.Procedure, as, body)
	return res.StatusCode, stripped(t, text)
}

// stream reads a stream until it ends, or until everything that was there at its start has come.
func (w *world) stream(t *testing.T, m rpc.Method, as, body string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	envelope := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body)))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+m.Procedure, bytes.NewReader(append(envelope, body...)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/connect+json")
	r.Header.Set("Authorization", "Bearer "+as)
	res, err := w.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var all strings.Builder
	for {
		var head [5]byte
		if _, err := io.ReadFull(res.Body, head[:]); err != nil {
			t.Fatalf("%s: the stream broke after %q: %v", m.Procedure, all.String(), err)
		}
		message := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(res.Body, message); err != nil {
			t.Fatal(err)
		}
		if head[0]&2 != 0 { // the end, with the error if there is one
			var end struct{ Error json.RawMessage }
			if err := json.Unmarshal(message, &end); err != nil {
				t.Fatal(err)
			}
			if end.Error != nil {
				return http.StatusTeapot, all.String() + stripped(t, string(end.Error))
			}
			return http.StatusOK, all.String()
		}
		all.Write(message)
		if bytes.Contains(message, []byte(`"synced"`)) {
			return http.StatusOK, all.String()
		}
	}
}

var varying = regexp.MustCompile(`"value":"[^"]*"|req_[0-9a-z]{26}`)

func stripped(t *testing.T, text string) string {
	t.Helper()
	return varying.ReplaceAllString(text, "")
}

// Whoever holds everything in one workspace learns nothing of another: a foreign resource, by whatever it is called, is
// answered like one that does not exist, to the byte, and is left as it was.
func TestForeignResourcesDoNotExist(t *testing.T) {
	w := newWorld(t)
	before := w.changes(t)
	for _, m := range rpc.Methods() {
		t.Run(m.Procedure[len("/loopback.v1."):], func(t *testing.T) {
			w.mustServe(t, m)
			for _, f := range refsOf(m) {
				kind := references[f.Name()]
				for form, foreign := range w.foreign[kind] {
					for _, others := range []string{"own", "none"} {
						refs := map[protoreflect.Name]string{}
						if others == "own" {
							for _, g := range refsOf(m) {
								refs[g.Name()] = w.own[references[g.Name()]]["id"]
							}
						}
						refs[f.Name()] = foreign
						status, got := w.call(t, m, "insider", request(t, m, refs))
						unknown := w.unknown[kind][form]
						refs[f.Name()] = unknown
						wantStatus, want := w.call(t, m, "insider", request(t, m, refs))
						got, want = strings.ReplaceAll(got, foreign, "REF"), strings.ReplaceAll(want, unknown, "REF")
						if status != wantStatus || got != want {
							t.Errorf("%s by %s, others %s: foreign gets %d %s\nunknown gets %d %s\nwant the same", f.Name(), form, others, status, got, wantStatus, want)
						}
						w.noLeak(t, got, string(f.Name())+" by "+form)
					}
				}
			}
			if len(refsOf(m)) == 0 {
				_, got := w.call(t, m, "insider", request(t, m, nil))
				w.noLeak(t, got, "without a reference")
			}
			_, got := w.call(t, m, "insider", `{}`)
			w.noLeak(t, got, "an empty request")
		})
	}
	for _, c := range w.changes(t)[len(before):] {
		if c.Scope.Organisation == w.a.Organisation {
			t.Errorf("%s %s of the foreign organisation was changed", c.Kind, c.ID)
		}
	}
}

// The permission that a method declares is the one that it demands: everything else everywhere, and this one elsewhere,
// is not enough.
func TestTheDeclaredPermissionIsTheOneDemanded(t *testing.T) {
	w := newWorld(t)
	before := w.changes(t)
	for _, m := range rpc.Methods() {
		if slices.Contains(deploymentWide, m.Permission) {
			continue
		}
		t.Run(m.Procedure[len("/loopback.v1."):], func(t *testing.T) {
			w.mustServe(t, m)
			var others []access.Permission
			for _, p := range rpc.Grantable() {
				if p != m.Permission {
					others = append(others, p)
				}
			}
			w.doors["almost"] = access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_almost", Grants: []access.Grant{
				{ID: "others", Permissions: others}, {ID: "elsewhere", Permissions: []access.Permission{m.Permission}, Scope: w.b},
			}})
			refs := map[protoreflect.Name]string{}
			for _, f := range refsOf(m) {
				refs[f.Name()] = w.foreign[references[f.Name()]]["id"]
			}
			for _, body := range []map[protoreflect.Name]string{refs, oneOf(refs)} {
				status, got := w.call(t, m, "almost", request(t, m, body))
				if status == http.StatusOK && !strings.Contains(got, `"items":[]`) && !lists(m) {
					t.Errorf("got %d %s without %s there, want it refused", status, got, m.Permission)
				}
				if len(refs) == 0 && !lists(m) && !strings.Contains(got, "permission_denied") {
					t.Errorf("got %d %s with %s in a workspace only, want it denied: it acts on the whole deployment", status, got, m.Permission)
				}
				if lists(m) {
					w.noLeak(t, got, "without the permission there")
				}
			}
			w.doors["without"] = access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_without", Grants: []access.Grant{{ID: "others", Permissions: others}}})
			if status, got := w.call(t, m, "without", request(t, m, refs)); status == http.StatusOK || !strings.Contains(got, "permission_denied") || !strings.Contains(got, string(m.Permission)) {
				t.Errorf("got %d %s with every permission but %s, want it denied by name", status, got, m.Permission)
			}
		})
	}
	for _, c := range w.changes(t)[len(before):] {
		if c.Scope.Organisation == w.a.Organisation || c.Scope == (access.Scope{}) {
			t.Errorf("%s %s was changed by who may not", c.Kind, c.ID)
		}
	}
}

// oneOf keeps the narrowest place alone, for methods that take at most one.
func oneOf(refs map[protoreflect.Name]string) map[protoreflect.Name]string {
	if refs["workspace"] == "" {
		return refs
	}
	return map[protoreflect.Name]string{"workspace": refs["workspace"]}
}

// lists tells whether a method lists what the caller may see, wherever that is. One that lists what is in a single thing is no such
// method: it is refused like any other about that thing.
func lists(m rpc.Method) bool {
	n := string(m.Descriptor.Name())
	if n == "ListAccessReviewItems" || n == "WatchShellSession" || n == "WatchExec" || n == "ListGuests" { // of one
		return false
	}
	return strings.HasPrefix(n, "List") || strings.HasPrefix(n, "Watch")
}

// The tests above would pass if nothing were ever found. Here the same references lead an administrator to the thing.
func TestWhoMayFindsWhatTheReferencesName(t *testing.T) {
	shared := newWorld(t)
	for _, m := range rpc.Methods() {
		t.Run(m.Procedure[len("/loopback.v1."):], func(t *testing.T) {
			w := shared
			if o, _ := m.Descriptor.Options().(*descriptorpb.MethodOptions); o.GetIdempotencyLevel() != descriptorpb.MethodOptions_NO_SIDE_EFFECTS {
				w = newWorld(t) // some methods remove what others look for
			}
			w.mustServe(t, m)
			switch m.Permission {
			case access.BootstrapRedeem, access.SignInBegin, access.SelfManage: // what is one's own: see the slices' tests
				return
			}
			for _, f := range refsOf(m) {
				for form, ref := range w.foreign[references[f.Name()]] {
					refs := map[protoreflect.Name]string{f.Name(): ref}
					for _, g := range refsOf(m) {
						if g.Name() != f.Name() && (g.Name() != "organisation" && g.Name() != "project" && g.Name() != "workspace" || needsBoth(m)) {
							refs[g.Name()] = w.foreign[references[g.Name()]]["id"]
						}
					}
					if strings.HasPrefix(string(m.Descriptor.Name()), "Delete") {
						w = newWorld(t) // where it is still there
						refs[f.Name()] = w.foreign[references[f.Name()]][form]
					}
					status, got := w.call(t, m, "administrator", request(t, m, refs))
					if status != http.StatusOK && (strings.Contains(got, "not_found") || strings.Contains(got, "permission_denied") || strings.Contains(got, "unimplemented")) {
						t.Errorf("%s by %s: got %d %s, want it found", f.Name(), form, status, got)
					}
				}
			}
			nobodys := []protoreflect.Name{"WatchChanges", "ListPermissions", "ListChecks"} // what they say has nothing of anybody's in it
			if lists(m) && m.Permission != release.Read && !slices.Contains(nobodys, m.Descriptor.Name()) {
				if _, got := w.call(t, m, "administrator", `{}`); !strings.Contains(got, marker) && !strings.Contains(got, w.a.Workspace) {
					t.Errorf("got %s, want what is there in it", got)
				}
			}
		})
	}
}

// needsBoth: a method that moves something between places.
func needsBoth(m rpc.Method) bool {
	return slices.ContainsFunc(refsOf(m), func(f protoreflect.FieldDescriptor) bool { return f.Name() == "to_workspace" })
}

func (w *world) noLeak(t *testing.T, text, what string) {
	t.Helper()
	for kind, forms := range w.foreign {
		for form, secret := range forms {
			if form != "name that is shared" && strings.Contains(text, secret) {
				t.Errorf("%s: the answer holds the %s of a foreign %s: %s", what, form, kind, text)
			}
		}
	}
	if strings.Contains(text, marker) {
		t.Errorf("%s: the answer holds something foreign: %s", what, text)
	}
}
