package token

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// Request is what a token is minted from. Zero fields take the workspace's defaults.
type Request struct {
	Name             string // empty: made from the id
	Description      string
	Labels           label.Set
	TTL              time.Duration
	LongLived        bool // with no TTL: the deployment's default for long-lived tokens
	MaxUses          int32
	AllowedNetworks  []string
	HostNamePattern  string
	RequiresApproval bool
	HostLabels       label.Set
	Channel          string
	EphemeralTTL     time.Duration
	Honeytoken       bool
}

// Bounds of an ephemeral host's absence.
const (
	minEphemeral = time.Minute
	maxEphemeral = 30 * 24 * time.Hour
)

// Mint makes a token in a workspace.
func (s *Service) Mint(ctx context.Context, workspace string, r Request) (Minted, error) {
	w, err := s.tenants.Workspace(ctx, workspace, token.Mint)
	if err != nil {
		return Minted{}, err
	}
	now := s.options.Now()
	tokenID := id.New("tok", now)
	secret := token.NewSecret(tokenID, s.options.Anchor())
	var out token.Token
	err = s.store.Write(ctx, func(tx Tx) error {
		// Read again: the policy may have been narrowed, or the workspace deleted.
		w, err := tx.Workspace(ctx, w.ID)
		if err != nil {
			return err
		}
		t, err := fill(r, s.options.Limits.Under(w.Tokens))
		if err != nil {
			return err
		}
		t.ID, t.CreatedAt, t.ExpiresAt, t.Scope = tokenID, now, now.Add(r.ttl(s.options.Limits.Under(w.Tokens))), w.Scope()
		t.Hash, t.CreatedBy = secret.Hash(s.options.Pepper), access.ActorFrom(ctx).ID
		if t.Name == "" {
			t.Name = strings.ReplaceAll(tokenID, "_", "-")
		}
		if out, err = tx.PutToken(ctx, t); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), token.Mint, out.Scope, out.ID, out.Name).Change(nil, describe(out)))
	})
	if err != nil {
		return Minted{}, err
	}
	return Minted{Token: out, Secret: secret, InstallCommand: s.options.InstallCommand(out.Channel)}, nil
}

func (r Request) ttl(l token.Limits) time.Duration {
	switch {
	case r.TTL != 0:
		return r.TTL
	case r.LongLived:
		return l.LongTTL
	default:
		return l.DefaultTTL
	}
}

// fill checks the request against the limits and says everything that is wrong with it.
func fill(r Request, l token.Limits) (token.Token, error) {
	var c fault.Check
	t := token.Token{
		Meta:        tenant.Meta{Name: r.Name, Labels: r.Labels},
		Description: r.Description, HostNamePattern: r.HostNamePattern, RequiresApproval: r.RequiresApproval,
		HostLabels: r.HostLabels, Channel: r.Channel, EphemeralTTL: r.EphemeralTTL, Honeytoken: r.Honeytoken, MaxUses: r.MaxUses,
	}
	if r.Name != "" {
		tenant.CheckName(&c, "name", r.Name)
	}
	c.That(len(r.Description) <= tenant.MaxDescription, "description", "is %d bytes long; at most %d are allowed", len(r.Description), tenant.MaxDescription)
	r.Labels.Validate(&c, "labels")
	r.HostLabels.Validate(&c, "hostLabels")
	ttl := r.ttl(l)
	c.That(ttl >= token.MinTTL, "ttl", "is %s; at least %s is needed", ttl, token.MinTTL)
	c.That(ttl <= l.MaxTTL, "ttl", "is %s; this workspace allows at most %s", ttl, l.MaxTTL)
	if t.MaxUses == 0 {
		t.MaxUses = l.DefaultMaxUses
	}
	c.That(t.MaxUses >= 1 && t.MaxUses <= l.MaxUses, "maxUses", "is %d; this workspace allows 1 to %d", t.MaxUses, l.MaxUses)
	t.AllowedNetworks = token.ParseNetworks(&c, "allowedNetworks", r.AllowedNetworks)
	_, err := path.Match(r.HostNamePattern, "")
	c.That(err == nil && len(r.HostNamePattern) <= 253, "hostNamePattern", "is not a pattern: use *, ? and [a-z] over host names, at most 253 characters")
	if t.Channel == "" {
		t.Channel = release.Stable
	}
	c.That(slices.Contains([]string{release.Stable, release.Preview}, t.Channel), "channel", "is %q; allowed are stable and preview", r.Channel)
	c.That(r.EphemeralTTL == 0 || r.EphemeralTTL >= minEphemeral && r.EphemeralTTL <= maxEphemeral, "ephemeralTtl",
		"is %s; allowed are %s to %s", r.EphemeralTTL, minEphemeral, maxEphemeral)
	return t, c.Err("token_invalid", "the token is not valid")
}

// defaultOverlap is how long a rotated token goes on working unless it is said.
const defaultOverlap = time.Hour

// Rotation is how a token is replaced.
type Rotation struct {
	Overlap *time.Duration // how long the old one still works, never past its expiry; nil: an hour; 0: not at all
	TTL     time.Duration  // of the successor; 0: as long as the old one was minted for, within today's maximum
}

// Rotate mints a successor with the same bounds. Both work until the overlap ends, when the old one expires.
func (s *Service) Rotate(ctx context.Context, ref string, r Rotation) (Minted, error) {
	old, err := s.find(ctx, ref, token.Rotate)
	if err != nil {
		return Minted{}, err
	}
	overlap := defaultOverlap
	if r.Overlap != nil {
		overlap = *r.Overlap
	}
	var c fault.Check
	c.That(overlap >= 0 && overlap <= token.MaxOverlap, "overlap", "is %s; allowed are 0 to %s", overlap, token.MaxOverlap)
	if err := c.Err("rotation_invalid", "the rotation is not valid"); err != nil {
		return Minted{}, err
	}
	now := s.options.Now()
	actor := access.ActorFrom(ctx)
	tokenID := id.New("tok", now)
	secret := token.NewSecret(tokenID, s.options.Anchor())
	var out token.Token
	err = s.store.Write(ctx, func(tx Tx) error {
		before, err := tx.Token(ctx, old.ID)
		if err != nil {
			return err
		}
		w, err := tx.Workspace(ctx, before.Scope.Workspace)
		if err != nil {
			return err
		}
		if err := rotatable(before, now); err != nil {
			return err
		}
		limits := s.options.Limits.Under(w.Tokens)
		ttl := r.TTL
		if ttl == 0 {
			ttl = min(before.ExpiresAt.Sub(before.CreatedAt), limits.MaxTTL)
		}
		var c fault.Check
		c.That(ttl >= token.MinTTL && ttl <= limits.MaxTTL, "ttl", "is %s; this workspace allows %s to %s", ttl, token.MinTTL, limits.MaxTTL)
		if err := c.Err("rotation_invalid", "the rotation is not valid"); err != nil {
			return err
		}
		successor := token.Token{
			Meta:  tenant.Meta{ID: tokenID, Name: before.Name, Labels: before.Labels, CreatedAt: now},
			Scope: before.Scope, Description: before.Description, Hash: secret.Hash(s.options.Pepper),
			ExpiresAt: now.Add(ttl), MaxUses: min(before.MaxUses, limits.MaxUses), AllowedNetworks: before.AllowedNetworks,
			HostNamePattern: before.HostNamePattern, RequiresApproval: before.RequiresApproval, HostLabels: before.HostLabels,
			Channel: before.Channel, EphemeralTTL: before.EphemeralTTL, Honeytoken: before.Honeytoken, CreatedBy: actor.ID,
			Networks: before.Networks,
		}
		after := before
		after.SuccessorID = tokenID
		if end := now.Add(overlap); end.Before(after.ExpiresAt) {
			after.ExpiresAt = end
		}
		if after, err = tx.PutToken(ctx, after); err != nil {
			return err
		}
		if out, err = tx.PutToken(ctx, successor); err != nil {
			return err
		}
		if err := tx.Audit(ctx, audit.Of(actor, token.Rotate, after.Scope, after.ID, after.Name).Change(describe(before), describe(after))); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, token.Rotate, out.Scope, out.ID, out.Name).Change(nil, describe(out)))
	})
	if err != nil {
		return Minted{}, err
	}
	return Minted{Token: out, Secret: secret, InstallCommand: s.options.InstallCommand(out.Channel)}, nil
}

// rotatable tells why a token cannot be rotated: what has ended has nothing to overlap with.
func rotatable(t token.Token, now time.Time) error {
	switch state := t.State(now); {
	case t.SuccessorID != "":
		return fault.New(fault.Precondition, "token_rotated", "token %s was rotated already: %s replaces it", t.Name, t.SuccessorID).
			WithHint("rotate its successor: loopback token rotate %s", t.SuccessorID)
	case state == token.Revoked || state == token.Expired:
		return fault.New(fault.Precondition, "token_ended", "token %s is %s and cannot be rotated", t.Name, state).
			WithHint("mint a new one: loopback token mint")
	}
	return nil
}
