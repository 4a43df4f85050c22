package fleet

import (
	"strings"
	"unique"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
)

// labels are shared by all hosts that have the same. Two hosts have the same labels exactly if their pointers are equal.
type labels struct {
	key  string
	set  label.Set
	uses int
}

func labelKey(set label.Set) string {
	var b strings.Builder
	for _, k := range set.Keys() {
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(set[k])
		b.WriteByte(',')
	}
	return b.String()
}

// share finds or makes the labels, and counts one more use.
func (d *Directory) share(set label.Set) *labels {
	key := labelKey(set)
	l := d.labels[key]
	if l == nil {
		l = &labels{key: key, set: set}
		d.labels[key] = l
	}
	l.uses++
	return l
}

func (d *Directory) unshare(l *labels) {
	if l == nil {
		return
	}
	if l.uses--; l.uses == 0 {
		delete(d.labels, l.key)
	}
}

// same is s, stored once however often it occurs.
func same[S ~string](s S) S {
	if s == "" {
		return ""
	}
	return unique.Make(s).Value()
}

// brief is what is kept of a host in memory: without what is long and rarely asked for, and with strings that many
// hosts share stored once.
func brief(h host.Host) *host.Host {
	h = h.Brief()
	h.Scope = access.Scope{Organisation: same(h.Scope.Organisation), Project: same(h.Scope.Project), Workspace: same(h.Scope.Workspace)}
	h.Lifecycle, h.LifecycleReason = same(h.Lifecycle), same(h.LifecycleReason)
	h.State, h.StateReason = same(h.State), same(h.StateReason)
	h.Updating, h.TokenID, h.Channel, h.Provider = same(h.Updating), same(h.TokenID), same(h.Channel), same(h.Provider)
	h.AgentVersion = same(h.AgentVersion)
	for i := range h.Sections {
		s := &h.Sections[i]
		s.Name, s.State, s.Message = same(s.Name), same(s.State), same(s.Message)
	}
	for i := range h.Modules {
		h.Modules[i].Module, h.Modules[i].Message = same(h.Modules[i].Module), same(h.Modules[i].Message)
	}
	for i := range h.Troubles {
		h.Troubles[i].Code, h.Troubles[i].Message = same(h.Troubles[i].Code), same(h.Troubles[i].Message)
	}
	for i := range h.ForcedLabels {
		h.ForcedLabels[i] = same(h.ForcedLabels[i])
	}
	for i := range h.Ceiling.Modules {
		h.Ceiling.Modules[i] = same(h.Ceiling.Modules[i])
	}
	v := &h.Inventory
	if v.HostName == h.Name {
		v.HostName = h.Name // one string for both
	}
	v.OS, v.OSVersion, v.OSName, v.Kernel = same(v.OS), same(v.OSVersion), same(v.OSName), same(v.Kernel)
	v.Architecture, v.CPUModel, v.Virtualisation = same(v.Architecture), same(v.CPUModel), same(v.Virtualisation)
	v.AgentVersion = same(v.AgentVersion)
	return &h
}
