package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/label"
)

const zero access.Permission = "root.shell"

var (
	names     = []access.Permission{"x.read", "x.set", "y.read", "places.read", zero}
	catalogue = access.NewCatalogue(names, []access.Permission{zero}, []access.Permission{"places.read"})
)

// world is rules, and who they are about.
type world struct {
	active map[string]bool
	groups map[string][]string // members
	rules  []access.Rule
}

func uid(kind, id string) types.EntityUID {
	return types.NewEntityUID(types.EntityType(kind), types.String(id))
}

// kindOf a principal: users begin with u.
func kindOf(id string) string {
	if strings.HasPrefix(id, "u") {
		return "User"
	}
	return "ServiceAccount"
}

// entities are principals below their groups, actions below their wildcards, and places below each other.
func (w *world) entities(places []access.Scope) types.EntityMap {
	out := types.EntityMap{}
	parents := map[string][]types.EntityUID{}
	for g, members := range w.groups {
		for _, m := range members {
			parents[m] = append(parents[m], uid("Group", g))
		}
	}
	put := func(id types.EntityUID, attributes types.RecordMap, above ...types.EntityUID) {
		out[id] = types.Entity{UID: id, Parents: types.NewEntityUIDSet(above...), Attributes: types.NewRecord(attributes)}
	}
	for id, active := range w.active {
		put(uid(kindOf(id), id), types.RecordMap{"active": types.Boolean(active)}, parents[id]...)
	}
	for _, p := range names {
		noun, _, _ := strings.Cut(string(p), ".")
		if p == zero { // wildcards do not reach it
			put(uid("Action", string(p)), nil)
		} else {
			put(uid("Action", string(p)), nil, uid("Action", noun+".*"), uid("Action", "*"))
		}
	}
	for _, s := range places {
		id, above := placeOf(s)
		put(id, nil, above...)
	}
	return out
}

// placeOf is a place, and those above it.
func placeOf(s access.Scope) (id types.EntityUID, above []types.EntityUID) {
	all := []types.EntityUID{uid("Place", "/")}
	for _, level := range []string{s.Organisation, s.Project, s.Workspace} {
		if level != "" {
			all = append(all, uid("Place", level))
		}
	}
	return all[len(all)-1], all[:len(all)-1]
}

// policies are the rules in Cedar.
func (w *world) policies() (*cedar.PolicySet, error) {
	var b strings.Builder
	b.WriteString("@id(\"disabled\") forbid(principal, action, resource) unless { principal.active };\n")
	for _, r := range w.rules {
		actions := func(list []access.Permission) string {
			var out []string
			for _, p := range list {
				out = append(out, fmt.Sprintf("Action::%q", string(p)))
			}
			return strings.Join(out, ", ")
		}
		if len(r.Permissions) == 0 {
			continue
		}
		var when []string
		if r.NotAfter.IsZero() && !r.Deny {
			when = append(when, fmt.Sprintf("action != Action::%q", string(zero)))
		}
		when = append(when, circumstances(r)...)
		place, _ := placeOf(r.Scope)
		write := func(when []string) {
			effect := "permit"
			if r.Deny {
				effect = "forbid"
			}
			subject := fmt.Sprintf("principal in Group::%q", r.Subject.ID)
			if r.Subject.Kind != access.Group {
				subject = fmt.Sprintf("principal == %s::%q", kindOf(r.Subject.ID), r.Subject.ID)
			}
			fmt.Fprintf(&b, "%s(%s, action in [%s], resource in Place::%q)", effect, subject, actions(r.Permissions), string(place.ID))
			if len(when) > 0 {
				b.WriteString(" when { " + strings.Join(when, " && ") + " }")
			}
			b.WriteString(";\n")
		}
		if len(r.Hosts) == 0 {
			write(when)
			continue
		}
		// Of places, selected hosts let one see all, and deny nothing.
		write(append(slices.Clone(when), `action != Action::"places.read"`, "resource has labels", selected(r.Hosts)))
		if !r.Deny {
			write(append(slices.Clone(when), `action == Action::"places.read"`))
		}
	}
	return cedar.NewPolicySetFromBytes("rules", []byte(b.String()))
}

func circumstances(r access.Rule) (when []string) {
	if !r.NotBefore.IsZero() {
		when = append(when, fmt.Sprintf("context.now >= %d", r.NotBefore.UnixMilli()))
	}
	if !r.NotAfter.IsZero() {
		when = append(when, fmt.Sprintf("context.now < %d", r.NotAfter.UnixMilli()))
	}
	if d := r.Conditions.MFAWithin; d > 0 {
		when = append(when, fmt.Sprintf("context has mfaAge && context.mfaAge <= %d", d.Milliseconds()))
	}
	if len(r.Conditions.Addresses) > 0 {
		var any []string
		for _, p := range r.Conditions.Addresses {
			any = append(any, fmt.Sprintf("context.address.isInRange(ip(%q))", p.String()))
		}
		when = append(when, "context has address && ("+strings.Join(any, " || ")+")")
	}
	if r.Conditions.Ticket != "" { // patterns of the test are a prefix and .*
		when = append(when, fmt.Sprintf("context has ticket && context.ticket like %q", strings.TrimSuffix(r.Conditions.Ticket, ".*")+"*"))
	}
	return when
}

// selected is that a host's labels match.
func selected(s label.Selector) string {
	var all []string
	for _, r := range s {
		has := fmt.Sprintf("resource.labels has %q", r.Key)
		in := fmt.Sprintf("%s.contains(resource.labels[%q])", set(r.Values), r.Key)
		switch r.Operator {
		case label.Exists:
			all = append(all, has)
		case label.NotExists:
			all = append(all, "!("+has+")")
		case label.In:
			all = append(all, "("+has+" && "+in+")")
		case label.NotIn:
			all = append(all, "(!("+has+") || !"+in+")")
		}
	}
	return strings.Join(all, " && ")
}

func set(values []string) string {
	var out []string
	for _, v := range values {
		out = append(out, fmt.Sprintf("%q", v))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// request is a question in Cedar; a host is put among the entities below its place.
func request(entities types.EntityMap, who string, p access.Permission, at access.Scope, host bool, labels label.Set, a access.Actor, now time.Time) cedar.Request {
	resource, above := placeOf(at)
	if host {
		above = append(above, resource)
		record := types.RecordMap{}
		name := ""
		for _, k := range labels.Keys() {
			record[types.String(k)] = types.String(labels[k])
			name += k + "=" + labels[k] + ","
		}
		resource = uid("Host", string(resource.ID)+" "+name)
		if _, ok := entities[resource]; !ok {
			entities[resource] = types.Entity{UID: resource, Parents: types.NewEntityUIDSet(above...),
				Attributes: types.NewRecord(types.RecordMap{"labels": types.NewRecord(record)})}
		}
	}
	context := types.RecordMap{"now": types.Long(now.UnixMilli())}
	if !a.MFA.IsZero() {
		context["mfaAge"] = types.Long(now.Sub(a.MFA).Milliseconds())
	}
	if ip, err := types.ParseIPAddr(a.Address); err == nil {
		context["address"] = ip
	}
	if a.Ticket != "" {
		context["ticket"] = types.String(a.Ticket)
	}
	return cedar.Request{Principal: uid(kindOf(who), who), Action: uid("Action", string(p)), Resource: resource, Context: types.NewRecord(context)}
}

func distinct(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// spent is the processor time that a function takes at best, its own thread's: what else the machine does is left out.
func spent(times int, f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	best := time.Hour
	for range times {
		runtime.GC()
		before := processor()
		f()
		best = min(best, processor()-before)
	}
	return best
}

func processor() time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &used); err != nil {
		panic(err) // it only fails for arguments that do not exist
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// allocs is how often a function allocates.
func allocs(times int, f func()) float64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range times {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64((after.Mallocs - before.Mallocs) / uint64(times))
}
