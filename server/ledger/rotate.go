package ledger

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
)

// RotateKey is what the audit log says of a log key that gives way to another.
const RotateKey access.Permission = "audit.rotate_key"

// rotate has the key that lies ready follow the log's. An entry says so first; then a checkpoint over it, which names both keys, is
// signed by both and swapped in, and from then on the next key signs. A crash in between is taken up where it was: until the swap the
// old key is the log's, afterwards the new one.
//
// A replica whose key was followed by another that it does not have signs nothing.
func (s *Service) rotate(ctx context.Context, l ledger.Log) (ledger.Log, error) {
	var next ledger.Key
	private := s.signer()
	if s.options.Rotation != nil {
		staged, err := s.options.Rotation.Next()
		if err != nil {
			return l, err
		}
		if staged != nil {
			next, private = s.public(staged), staged
		}
	}
	own := s.Key()
	current := own.Chain(l.Handovers).Last()
	if next.Name != "" && current.String() == next.String() {
		if err := s.options.Rotation.Done(); err != nil {
			return l, fmt.Errorf("putting the log's next key in its place: %w", err)
		}
		s.use(private)
		s.options.Logger.InfoContext(ctx, "the audit log is signed by another key from now on", "key", next.String(), "before", own.String())
		return l, nil
	}
	if current.String() != own.String() {
		return l, fault.New(fault.Precondition, "audit_key_superseded", "the audit log is signed by another key than this replica has: %s", current).
			WithHint("copy audit.key among the keys from the replica where it was rotated, mode 0600, and restart this one")
	}
	if next.Name == "" || l.LeaseOwner != s.options.Owner && s.options.Now().Before(l.LeaseUntil) || l.Checkpoint == "" {
		return l, nil // there is none; another replica signs; or nothing is signed that could be handed over
	}
	if err := s.remembered(ctx, l); err != nil {
		return l, err
	}
	worker := access.Actor{Kind: access.System, Name: "audit log"}
	change := map[string]string{"from": own.String(), "to": next.String()}
	if err := s.store.Write(ctx, func(tx Tx) error {
		return tx.Audit(ctx, audit.Of(worker, RotateKey, access.Scope{}, "log key "+hex.EncodeToString(next.Public[:8]), own.Name).Change(nil, change))
	}); err != nil {
		return l, err
	}
	position, err := s.store.View().AuditPosition(ctx)
	if err != nil {
		return l, err
	}
	for l.Began+l.Size < position {
		if l, err = s.grow(ctx, l); err != nil {
			return l, err
		}
	}
	note := ledger.Checkpoint{Origin: l.Origin, Size: l.Size, Root: l.Root, Handover: ledger.Handover{From: own.String(), To: next.String()}}.Sign(own.Name, s.signer(), private)
	var out ledger.Log
	if err := s.store.Observe(ctx, func(tx Tx) error {
		var err error
		if out, err = s.held(ctx, tx, l); err != nil {
			return err
		}
		if out.Size != l.Size || out.Root != l.Root || len(out.Handovers) != len(l.Handovers) {
			return errOther
		}
		out.Checkpoint, out.Signed, out.SignedAt = note, l.Size, s.options.Now().UTC()
		out.Handovers = append(append([]string(nil), out.Handovers...), note)
		return tx.PutAuditLog(ctx, out)
	}); err != nil {
		return l, err
	}
	if err := s.options.Memory.Store(note); err != nil {
		return out, fmt.Errorf("remembering the checkpoint: %w", err)
	}
	return s.rotate(ctx, out) // puts the next key in its place
}
