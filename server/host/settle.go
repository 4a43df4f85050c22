package host

import (
	"context"
	"fmt"
	"slices"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
)

// Winner of a section in which a host is ahead of the control plane.
type Winner string

// The winners.
const (
	HostWins         Winner = "host"
	ControlPlaneWins Winner = "control-plane"
)

// Settle says who wins where a host is ahead: of one frozen section, or of every one where none is named. Where the control
// plane wins, what it wants becomes newer than anything that the host holds. Where the host wins, what it holds is taken over
// once it is linked, as settings and labels of its own.
func (s *Service) Settle(ctx context.Context, ref Ref, name string, winner Winner, reason string) (Seen, error) {
	var c fault.Check
	c.That(winner == HostWins || winner == ControlPlaneWins, "winner", "is %q; allowed are %s, %s", winner, HostWins, ControlPlaneWins)
	c.That(len(reason) <= maxReason, "reason", "is %d bytes long; at most %d are allowed", len(reason), maxReason)
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return Seen{}, err
	}
	return s.change(ctx, ref, host.Settle, func(tx Tx, h *host.Host) (bool, string, error) {
		var frozen []section.Status
		for _, st := range h.Sections {
			if st.Frozen && (name == "" || st.Name == name) {
				frozen = append(frozen, st)
			}
		}
		if len(frozen) == 0 {
			return false, "", fault.New(fault.Precondition, "section_not_frozen", "host %s has no frozen section %s", h.Name, name).
				WithHint("loopback host list --query 'reason~ahead' lists the hosts that are ahead")
		}
		h.Settling = slices.Clone(h.Settling)
		why := fmt.Sprintf("the %s wins:", winner)
		for _, st := range frozen {
			why += " " + st.Name + " " + st.Revision.String()
			h.Settling = slices.DeleteFunc(h.Settling, func(n string) bool { return n == st.Name })
			if winner == HostWins {
				h.Settling = append(h.Settling, st.Name)
			}
		}
		if reason != "" {
			why += ": " + reason
		}
		if winner == HostWins {
			return true, why, nil
		}
		// The position of this very change is the revision of what is wanted from here on.
		stored, err := s.put(ctx, tx, *h)
		if err != nil {
			return false, "", err
		}
		*h = stored
		h.SettingsRevision = stored.Revision
		for _, st := range frozen {
			wanted, ok := s.fleet.Wanted(h.ID)[st.Name]
			if ok && (section.Revision{Epoch: wanted.Epoch, Number: uint64(h.SettingsRevision)}).Compare(st.Revision) <= 0 {
				return false, "", fault.New(fault.Precondition, "section_ahead", "host %s holds revision %s of section %s, which is past all that the control plane knows in this epoch",
					h.Name, st.Revision, st.Name).WithHint("the database lost what it had acknowledged: let the host win, or begin a new epoch with loopbackd restore")
			}
		}
		return true, why, nil
	})
}
