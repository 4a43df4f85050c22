package host_test

import (
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	noun "github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/host"
	"github.com/loopbackd/loopback/server/link"
	tokens "github.com/loopbackd/loopback/server/token"
	"github.com/loopbackd/loopback/test/plane"
)

// wire is the links of a replica.
type wire struct {
	holds bool
	told  []string // modules
}

func (w *wire) RestartModule(_, _, _, module string, _ time.Time) bool {
	if w.holds {
		w.told = append(w.told, module)
	}
	return w.holds
}

// ward is a plane with a host that is linked to the second of two replicas, and has two modules.
type ward struct {
	*plane.Plane
	host     string
	policy   *access.Policy
	replicas [2]*host.Restarts
	links    [2]*wire
}

func newWard(t *testing.T) *ward {
	p := plane.New(t)
	_, ids := enrolled(t, p, tokens.Request{}, "web")
	p.Follow(t)
	p.Links.Link(ids[0])
	seen := link.Observation{HostID: ids[0], At: p.Clock.Now(), Modules: &[]noun.Health{{Module: "settings", Healthy: true}, {Module: "mesh", Healthy: true}}}
	if err := p.Fleet.Observer().Observe(t.Context(), []link.Observation{seen}); err != nil {
		t.Fatal(err)
	}
	p.Follow(t)
	w := &ward{Plane: p, host: ids[0]}
	w.policy = access.NewPolicy(access.NewCatalogue([]access.Permission{noun.RestartModule}, nil, nil), p.Clock.Now)
	w.rules(true)
	for i := range w.replicas {
		w.links[i] = &wire{holds: i == 1}
		w.replicas[i] = host.NewRestarts(p.Hosts, w.links[i], w.policy, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	}
	return w
}

// rules let the administrator restart modules, or not.
func (w *ward) rules(allow bool) {
	rules := access.NewRules(w.policy.Catalogue())
	rules.PutPrincipal(access.Principal{Kind: access.User, ID: "usr", Active: true})
	if allow {
		rules.PutRule(access.Rule{ID: "rule", Subject: access.Subject{Kind: access.User, ID: "usr"}, Permissions: []access.Permission{noun.RestartModule}})
	}
	w.policy.Swap(rules.Snapshot(1))
}

func (w *ward) ask(t *testing.T, module, request string) (operation.Operation, error) {
	t.Helper()
	admin := plane.Admin
	admin.Principal = "usr"
	return w.Hosts.RestartModule(access.WithActor(t.Context(), admin), ref("web"), module, "it is stuck", request)
}

// asked is one that was asked for.
func (w *ward) asked(t *testing.T) operation.Operation {
	t.Helper()
	o, err := w.ask(t, "mesh", "")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// turn has both replicas look.
func (w *ward) turn(t *testing.T) {
	t.Helper()
	for _, r := range w.replicas {
		if _, err := r.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *ward) say(t *testing.T, o operation.Operation, state string, why *fault.Error, how *noun.Restart) operation.Operation {
	t.Helper()
	r := host.RestartReport{HostID: w.host, OrderID: o.ID, State: state, Why: why}
	if how != nil {
		r.Result, _ = json.Marshal(how)
	}
	w.replicas[1].Reported(r)
	w.turn(t)
	return w.now(t, o)
}

func (w *ward) now(t *testing.T, o operation.Operation) operation.Operation {
	t.Helper()
	o, err := w.DB.View().Operation(t.Context(), o.ID)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestAModuleIsRestartedByTheReplicaThatHoldsTheLink(t *testing.T) {
	w := newWard(t)
	o, err := w.ask(t, "mesh", "r1")
	if err != nil || o.State != operation.Pending || o.Target != w.host {
		t.Fatalf("it was asked for with %+v, %v", o, err)
	}
	if again, err := w.ask(t, "mesh", "r1"); err != nil || again.ID != o.ID {
		t.Errorf("the same request led to %s, %v", again.ID, err)
	}
	w.turn(t)
	w.turn(t)
	if len(w.links[0].told) > 0 || !slices.Equal(w.links[1].told, []string{"mesh"}) {
		t.Errorf("told by the replicas: %v, %v", w.links[0].told, w.links[1].told)
	}
	w.Clock.Pass(3 * time.Second)
	w.turn(t)
	if len(w.links[1].told) != 2 {
		t.Errorf("a host that says nothing was told %d times", len(w.links[1].told))
	}
	if o = w.say(t, o, "begun", nil, nil); o.State != operation.Running || o.Steps[0].State != operation.Succeeded {
		t.Errorf("once it had begun: %+v", o)
	}
	o = w.say(t, o, "ended", nil, &noun.Restart{State: section.Applied, Revision: "1.5", Healthy: true})
	if o.State != operation.Succeeded || o.Progress != 1 || o.Steps[1].Message != "applied 1.5; healthy" {
		t.Errorf("at its end: %+v", o)
	}
	w.Clock.Pass(time.Minute)
	w.say(t, o, "ended", nil, &noun.Restart{State: section.Failed})
	if again := w.now(t, o); again.Revision != o.Revision || len(w.links[1].told) != 2 {
		t.Errorf("another word changed it to %+v", again)
	}
	entries := w.Entries(t, noun.RestartModule)
	if len(entries) != 2 || entries[0].Target != w.host || entries[0].Reason != "it is stuck" || entries[1].Actor.Kind != access.APIKey ||
		!strings.Contains(string(entries[0].After), `"state":"succeeded"`) || !strings.Contains(string(entries[1].After), `"module":"mesh"`) {
		t.Errorf("the audit log has %d entries: %+v", len(entries), entries)
	}
}

func TestHowARestartFails(t *testing.T) {
	for name, c := range map[string]struct {
		say  func(t *testing.T, w *ward, o operation.Operation)
		code string
	}{
		"an agent that does not know the order": {func(t *testing.T, w *ward, o operation.Operation) {
			w.say(t, o, "refused", fault.New(fault.Precondition, "order_unknown", "it does not know it"), nil)
		}, "order_unknown"},
		"a module that failed": {func(t *testing.T, w *ward, o operation.Operation) {
			w.say(t, o, "ended", nil, &noun.Restart{State: section.Failed, Healthy: true})
		}, "module_failed"},
		"a module that is unhealthy": {func(t *testing.T, w *ward, o operation.Operation) {
			w.say(t, o, "ended", nil, &noun.Restart{State: section.Applied, Health: "no peer"})
		}, "module_unhealthy"},
		"a module that hangs": {func(t *testing.T, w *ward, o operation.Operation) {
			w.say(t, o, "begun", nil, nil)
			w.say(t, o, "ended", nil, &noun.Restart{ErrorCode: "module_hung", Error: "it hangs"})
		}, "module_hung"},
		"an agent that was killed": {func(t *testing.T, w *ward, o operation.Operation) { w.say(t, o, "indeterminate", nil, nil) }, "order_indeterminate"},
		"an answer that is none":   {func(t *testing.T, w *ward, o operation.Operation) { w.say(t, o, "ended", nil, nil) }, "restart_answer"},
		"whoever asked may not any more": {func(t *testing.T, w *ward, o operation.Operation) {
			w.rules(false)
			w.turn(t)
			if len(w.links[1].told) > 0 {
				t.Error("the host was told")
			}
		}, "permission_ended"},
		"a host that says nothing": {func(t *testing.T, w *ward, _ operation.Operation) {
			w.Clock.Pass(24 * time.Second)
			w.Run(t)
		}, "host_silent"},
		"a host that was lost": {func(t *testing.T, w *ward, o operation.Operation) {
			w.say(t, o, "begun", nil, nil)
			w.Clock.Pass(noun.RestartWithin + 9*time.Second)
			w.Run(t)
		}, "host_lost"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWard(t)
			w.Restarts = w.replicas[0]
			o := w.asked(t)
			c.say(t, w, o)
			w.Clock.Pass(2 * time.Second)
			for late := time.Now().Add(10 * time.Second); !w.now(t, o).State.Ended() && time.Now().Before(late); {
				time.Sleep(time.Millisecond) // asking again: the worker looks by the real clock
			}
			o = w.now(t, o)
			if o.State != operation.Failed || o.ErrorCode != c.code {
				t.Errorf("it is %s, %s (%s)", o.State, o.ErrorCode, o.Error)
			}
			if last := w.Entries(t, noun.RestartModule); len(last) != 2 || !strings.Contains(string(last[0].After), c.code) {
				t.Errorf("the audit log has %v", last)
			}
		})
	}
}

func TestWhereNoModuleIsRestarted(t *testing.T) {
	w := newWard(t)
	if _, err := w.ask(t, "none", ""); code(err) != "module_unknown" || !strings.Contains(fault.Of(err).Hint, "settings, mesh") {
		t.Errorf("of a module that is not there: %v, hint %q", err, fault.Of(err).Hint)
	}
	if _, err := w.ask(t, "", ""); code(err) != "request_invalid" {
		t.Errorf("of none: %v", err)
	}
	if _, err := w.ask(t, "mesh", "r1"); err != nil {
		t.Fatal(err)
	}
	ctx := plane.AsAdmin(t.Context())
	if _, err := w.Hosts.Quarantine(ctx, ref("web"), "", "r1"); code(err) != "request_id_reused" {
		t.Errorf("the request of a restart quarantined: %v", err)
	}
	if _, err := w.Hosts.RestartModule(plane.As(ctx, "reader", w.Workspace.Scope(), noun.Read), ref("web"), "mesh", "", ""); fault.KindOf(err) != fault.Denied {
		t.Errorf("a reader: %v", err)
	}
	if _, err := w.Hosts.RestartModule(plane.As(ctx, "stranger", w.Other.Scope(), access.All), ref("web"), "mesh", "", ""); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := w.Hosts.Add(ctx, host.Addition{Workspace: w.Workspace.ID, Name: "bare"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Hosts.RestartModule(ctx, ref("bare"), "mesh", "", ""); code(err) != "host_unmanaged" {
		t.Errorf("of a machine without an agent: %v", err)
	}
	w.Links.Expel([]string{w.host})
	if _, err := w.ask(t, "mesh", ""); code(err) != "host_offline" {
		t.Errorf("of a host that is away: %v", err)
	}
	if _, err := w.Hosts.Quarantine(ctx, ref("web"), "", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ask(t, "mesh", ""); code(err) != "host_not_managed" {
		t.Errorf("in quarantine: %v", err)
	}
	if n := len(w.Entries(t, noun.RestartModule)); n != 1 {
		t.Errorf("%d audit entries; want that of the one that was allowed", n)
	}
	if got := w.Entries(t, noun.RestartModule)[0].Outcome; got != audit.Done {
		t.Errorf("it is %s", got)
	}
}
