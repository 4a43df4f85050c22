package host

import (
	"context"
	"maps"
	"net/netip"
	"regexp"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/tenant"
)

// Label sets and removes labels. revision is the host's that the caller read; 0: whichever it is.
func (s *Service) Label(ctx context.Context, ref Ref, set label.Set, remove []string, revision int64) (Seen, error) {
	var c fault.Check
	set.Validate(&c, "set")
	for i, k := range remove {
		_, both := set[k]
		c.That(!both, "remove", "has %q (entry %d), which is to be set as well", k, i+1)
	}
	if err := c.Err("labels_invalid", "the labels are not valid"); err != nil {
		return Seen{}, err
	}
	return s.change(ctx, ref, host.Label, func(_ Tx, h *host.Host) (bool, string, error) {
		if h.Lifecycle == host.LifecycleRemoved {
			return false, "", removed(h)
		}
		if revision != 0 && revision != h.Revision {
			return false, "", fault.New(fault.Conflict, "host_changed", "host %s was changed by somebody else meanwhile", h.Name).
				WithHint("look at it again (loopback host show %s) and repeat", h.Name)
		}
		labels := maps.Clone(h.Labels)
		if labels == nil {
			labels = label.Set{}
		}
		maps.Copy(labels, set)
		for _, k := range remove {
			delete(labels, k)
		}
		for _, k := range h.ForcedLabels {
			if labels[k] != h.Labels[k] || !has(labels, k) {
				return false, "", fault.New(fault.Precondition, "label_forced", "the label %s came from the host's token and cannot be changed", k).
					WithHint("enrol the host again with a token that forces another value, or leave the label as it is")
			}
		}
		var c fault.Check
		labels.Validate(&c, "labels")
		if err := c.Err("labels_invalid", "the host would have labels that are not valid"); err != nil {
			return false, "", err
		}
		if maps.Equal(labels, h.Labels) {
			return false, "", nil
		}
		// Whoever may label some hosts only does not hand them to others, nor takes others' rules for them.
		if !access.ActorFrom(ctx).DecideOn(host.Label, h.Scope, h.ID, labels).Allowed {
			return false, "", fault.New(fault.Denied, "permission_denied", "with these labels you might not label the host any more").
				WithHint("ask somebody whose %s reaches hosts with the new labels as well", host.Label)
		}
		h.Labels = labels
		return true, "", nil
	})
}

func has(labels label.Set, k string) bool { _, ok := labels[k]; return ok }

func removed(h *host.Host) error {
	return fault.New(fault.Precondition, "host_removed", "host %s was removed", h.Name)
}

// Addition is a machine without an agent.
type Addition struct {
	Workspace string
	Name      string
	Address   string // an address or a DNS name; may be empty
	Provider  string // who knows it; empty: "manual"
	Labels    label.Set
}

var (
	dnsName  = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?\.?$`)
	provider = regexp.MustCompile(`^[a-z][-a-z0-9]{0,62}$`)
)

// Add puts a machine without an agent into the inventory.
func (s *Service) Add(ctx context.Context, a Addition) (Seen, error) {
	w, err := s.tenants.Workspace(ctx, a.Workspace, host.Add)
	if err != nil {
		return Seen{}, err
	}
	if a.Provider == "" {
		a.Provider = "manual"
	}
	var c fault.Check
	tenant.CheckName(&c, "name", a.Name)
	a.Labels.Validate(&c, "labels")
	_, err = netip.ParseAddr(a.Address)
	c.That(a.Address == "" || err == nil || len(a.Address) <= 253 && dnsName.MatchString(a.Address), "address", "is neither an IP address nor a DNS name")
	c.That(provider.MatchString(a.Provider), "provider", "is not lower-case letters, digits and '-', at most 63, a letter first")
	if err := c.Err("host_invalid", "the host is not valid"); err != nil {
		return Seen{}, err
	}
	now := s.now().UTC()
	h := host.Host{
		Meta:  tenant.Meta{ID: id.New("hst", now), Name: a.Name, Labels: a.Labels, CreatedAt: now},
		Scope: w.Scope(), Facts: host.Facts{Lifecycle: host.LifecycleUnmanaged}, Provider: a.Provider, Address: a.Address,
	}
	h.Settle(now)
	var out host.Host
	err = s.store.Write(ctx, func(tx Tx) error {
		if _, err := tx.Workspace(ctx, w.ID); err != nil { // it may have been deleted since
			return err
		}
		taken, err := s.taken(ctx, tx, w.Scope())(a.Name)
		if err != nil {
			return err
		}
		if taken {
			return fault.New(fault.Exists, "host_exists", "a host named %s is in workspace %s already", a.Name, w.Name).
				WithHint("choose another name, or look at it: loopback host show %s", a.Name)
		}
		if out, err = tx.PutHost(ctx, h); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), host.Add, out.Scope, out.ID, out.Name).Change(nil, describe(out)))
	})
	if err != nil {
		return Seen{}, err
	}
	s.fleet.Learn(ctx, out)
	return s.seen(&out), nil
}

// taken tells whether a host in the workspace has a name. Names of removed hosts are free again.
func (s *Service) taken(ctx context.Context, tx Tx, workspace access.Scope) func(string) (bool, error) {
	return func(name string) (bool, error) {
		found, _, _, err := tx.Hosts(ctx, host.Query{Readable: access.Over(workspace), Within: workspace, Name: name, Page: tenant.Page{Size: 1}})
		return len(found) > 0, err
	}
}

// Move takes a host to another workspace. The caller needs the permission in both. Labels stay, forced ones stay forced;
// the name is made unique where it arrives.
func (s *Service) Move(ctx context.Context, ref Ref, to, reason string) (Seen, error) {
	w, err := s.tenants.Frame(ctx, to, host.Move)
	if err != nil {
		return Seen{}, err
	}
	return s.change(ctx, ref, host.Move, func(tx Tx, h *host.Host) (bool, string, error) {
		if h.Lifecycle == host.LifecycleRemoved {
			return false, "", removed(h)
		}
		if h.Scope.Workspace == w.ID {
			return false, "", nil
		}
		if _, err := tx.Workspace(ctx, w.ID); err != nil {
			return false, "", err
		}
		if err := access.ActorFrom(ctx).RequireHost(host.Move, w.Scope(), h.ID, h.Labels, host.Move, "workspace "+to); err != nil {
			return false, "", err
		}
		name, _, err := host.FreeName(h.Name, 0, s.taken(ctx, tx, w.Scope()))
		if err != nil {
			return false, "", err
		}
		h.Name, h.Scope = name, w.Scope()
		return true, reason, nil
	})
}
