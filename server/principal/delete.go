package principal

import (
	"context"
	"slices"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/tenant"
)

// ended is what went with one that was deleted, for the audit log.
type ended struct {
	Bindings []string `json:"bindings,omitempty"`
	Groups   []string `json:"groups,omitempty"`
	APIKeys  []string `json:"apiKeys,omitempty"`
	SignIns  []string `json:"signIns,omitempty"`
	Passkeys []string `json:"passkeys,omitempty"`

	Invitations []string `json:"invitations,omitempty"`
}

// Delete deletes a user or a service account, with its bindings, memberships, API keys, passkeys and sign-ins.
func (s *Service) Delete(ctx context.Context, kind access.SubjectKind, ref string) error {
	p := permissions[kind].remove
	found, err := s.find(ctx, kind, ref, p)
	if err != nil {
		return err
	}
	actor := access.ActorFrom(ctx)
	return s.store.Write(ctx, func(tx Tx) error {
		before, err := tx.Principal(ctx, found.ID)
		if err != nil {
			return err
		}
		if err := actor.Require(p, before.Scope, permissions[kind].read, principal.Word(kind)+" "+ref); err != nil {
			return err
		}
		return owned(ctx, tx, func() error {
			var gone ended
			if gone.Bindings, err = unbind(ctx, tx, before.ID); err != nil {
				return err
			}
			if gone.Groups, err = leave(ctx, tx, before.ID); err != nil {
				return err
			}
			if gone.APIKeys, err = s.revoke(ctx, tx, before.ID); err != nil {
				return err
			}
			if gone.SignIns, err = tx.EndSignIns(ctx, before.ID, s.now(), signin.UserGone); err != nil {
				return err
			}
			if gone.Passkeys, err = tx.DeletePasskeys(ctx, before.ID); err != nil {
				return err
			}
			if gone.Invitations, err = tx.RevokeInvitations(ctx, before.ID, s.now()); err != nil {
				return err
			}
			if err := tx.DeletePrincipal(ctx, before); err != nil {
				return err
			}
			return tx.Audit(ctx, audit.Of(actor, p, before.Scope, before.ID, before.Name).Change(describe(before), gone))
		})
	})
}

// unbind deletes a subject's bindings.
func unbind(ctx context.Context, tx Tx, subject string) (out []string, err error) {
	var all []policy.Binding
	err = eachBinding(ctx, tx, subject, func(b policy.Binding) error {
		all = append(all, b)
		return nil
	})
	for _, b := range all {
		if err == nil {
			out, err = append(out, b.ID), tx.DeleteBinding(ctx, b)
		}
	}
	return out, err
}

// leave takes a user out of all groups.
func leave(ctx context.Context, tx Tx, user string) (out []string, err error) {
	q := principal.Query{Readable: access.Everywhere(), Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		groups, next, err := tx.Groups(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, g := range groups {
			if !slices.Contains(g.Members, user) {
				continue
			}
			g.Members = slices.DeleteFunc(g.Members, func(m string) bool { return m == user })
			if _, err := tx.PutGroup(ctx, g); err != nil {
				return nil, err
			}
			out = append(out, g.ID)
		}
		if q.Page.Token = next; next == "" {
			return out, nil
		}
	}
}

// revoke ends the keys of an owner.
func (s *Service) revoke(ctx context.Context, tx Tx, owner string) (out []string, err error) {
	now := s.now()
	q := apikey.Query{Readable: access.Everywhere(), Owner: owner, Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		keys, next, err := tx.Keys(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			if !k.Live(now) {
				continue
			}
			k.RevokedAt = now
			if _, err := tx.PutKey(ctx, k); err != nil {
				return nil, err
			}
			out = append(out, k.ID)
		}
		if q.Page.Token = next; next == "" {
			return out, nil
		}
	}
}
