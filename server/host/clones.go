package host

import (
	"context"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
)

// errCloned keeps a host locked that several machines answer for: letting it go as it is would only lock it again.
func errCloned(h *host.Host) error {
	return fault.New(fault.Precondition, "host_cloned", "host %s is locked: several machines hold its identity key", h.Name).
		WithHint("loopback host show %s lists them; then make each a host of its own: loopback host split %s --keep COPY; or shut one out: loopback host drop %s --copy COPY",
			h.Name, h.Name, h.Name)
}

// Split ends a host's lock: the copy that is kept goes on as the host, every other one becomes a host of its own.
func (s *Service) Split(ctx context.Context, ref Ref, keep, reason string) (Seen, error) {
	if err := told(keep, "keep", reason); err != nil {
		return Seen{}, err
	}
	return s.change(ctx, ref, host.Split, func(_ Tx, h *host.Host) (bool, string, error) {
		return true, reason, h.Decide(keep, host.SplitOff)
	})
}

// Drop ends a host's lock: the copy that is kept goes on as the host, every other one is refused for good. With two
// copies it is enough to say which is dropped.
func (s *Service) Drop(ctx context.Context, ref Ref, dropped, keep, reason string) (Seen, error) {
	if err := told(dropped+keep, "copy", reason); err != nil {
		return Seen{}, err
	}
	return s.change(ctx, ref, host.Drop, func(_ Tx, h *host.Host) (bool, string, error) {
		kept, err := theOther(h, dropped, keep)
		if err != nil {
			return false, "", err
		}
		return true, reason, h.Decide(kept, host.Dropped)
	})
}

func told(which, field, reason string) error {
	var c fault.Check
	c.That(which != "", field, "is empty; name a copy by its boot id, address or host name")
	c.That(len(reason) <= maxReason, "reason", "is %d bytes long; at most %d are allowed", len(reason), maxReason)
	return c.Err("request_invalid", "the request is not valid")
}

// theOther is the boot id of the copy that is kept when one is dropped.
func theOther(h *host.Host, dropped, keep string) (string, error) {
	if dropped == "" || !h.Clones.Locked() {
		return keep, nil
	}
	gone, err := h.Copy(dropped)
	if err != nil {
		return "", err
	}
	if keep != "" {
		kept, err := h.Copy(keep)
		if err == nil && kept.BootID == gone.BootID {
			err = fault.New(fault.Invalid, "copy_kept_and_dropped", "the copy %s cannot be both kept and dropped", gone.BootID)
		}
		return kept.BootID, err
	}
	other := ""
	for _, one := range h.Clones.Copies {
		switch {
		case one.BootID == gone.BootID:
		case other != "":
			return "", fault.New(fault.Invalid, "copy_to_keep", "host %s has %d copies: say which one is kept", h.Name, len(h.Clones.Copies)).
				WithHint("loopback host drop %s --keep COPY drops all others", h.Name)
		default:
			other = one.BootID
		}
	}
	return other, nil
}
