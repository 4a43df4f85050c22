package grant

import (
	"context"
	"slices"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/principal"
)

// Approve is one person's approval. The last that is needed puts the grant in force.
func (s *Service) Approve(ctx context.Context, ref, comment string) (grant.Grant, error) {
	if err := checkComment(comment); err != nil {
		return grant.Grant{}, err
	}
	actor := access.ActorFrom(ctx)
	return s.change(ctx, ref, grant.Approve, grant.Pending, comment, func(tx Tx, g grant.Grant) (grant.Grant, error) {
		who, err := s.approver(ctx, tx, actor, g)
		if err != nil {
			return g, err
		}
		now := s.now()
		role, err := tx.Role(ctx, g.RoleID)
		if err != nil {
			return g, err
		}
		if lacking := actor.Covers(s.binding(g, now).Rule(role)); len(lacking) > 0 {
			return g, fault.New(fault.Denied, "permission_not_held", "you cannot approve what you do not hold there: %v", lacking).
				WithHint("somebody who holds it has to approve")
		}
		g.Approvals = append(slices.Clone(g.Approvals), grant.Approval{
			Principal: who.ID, Name: who.Name, Identity: who.Identity, Email: who.Email, By: actor.ID, At: now, Comment: comment,
		})
		if counted, err := s.counted(ctx, tx, g); err != nil || counted < g.Terms.Approvals {
			return g, err
		}
		return s.activate(ctx, tx, g)
	})
}

// approver is who approves, if they may approve this grant.
func (s *Service) approver(ctx context.Context, tx Tx, actor access.Actor, g grant.Grant) (principal.Principal, error) {
	if principal.Kind(actor.Principal) != access.User {
		return principal.Principal{}, fault.New(fault.Precondition, "grant_approver_not_a_person", "only people approve, and you act as none").
			WithHint("approve with a key, or a session, of a user")
	}
	who, err := tx.Principal(ctx, actor.Principal)
	if err != nil {
		return who, err
	}
	if who.ID == g.Subject.ID {
		return who, fault.New(fault.Denied, "grant_own_request", "nobody approves what they asked for themselves")
	}
	subject, err := tx.Principal(ctx, g.Subject.ID)
	if err != nil {
		return who, err
	}
	if principal.SamePerson(who, subject) {
		return who, fault.New(fault.Denied, "grant_same_person", "%s and %s are accounts of the same person, and nobody approves what they asked for themselves", who.Name, subject.Name)
	}
	for _, a := range g.Approvals {
		before := principal.Principal{Identity: a.Identity, Email: a.Email}
		before.ID = a.Principal
		if principal.SamePerson(who, before) {
			return who, fault.New(fault.Precondition, "grant_approved_already", "you approved grant %s already, as %s; somebody else has to", g.ID, a.Name)
		}
	}
	if len(g.Terms.Approvers) == 0 {
		return who, nil
	}
	for _, ref := range g.Terms.Approvers {
		group, err := tx.Group(ctx, ref)
		switch {
		case fault.KindOf(err) == fault.NotFound:
		case err != nil:
			return who, err
		case slices.Contains(group.Members, who.ID):
			return who, nil
		}
	}
	return who, fault.New(fault.Denied, "grant_not_an_approver", "you are in none of the groups that approve this").
		WithHint("the policy %s says which: loopback grant-policy show %s", g.PolicyID, g.PolicyID)
}

// counted is how many approvals are of people who may still act.
func (s *Service) counted(ctx context.Context, tx Tx, g grant.Grant) (n int, err error) {
	for _, a := range g.Approvals {
		who, err := tx.Principal(ctx, a.Principal)
		switch {
		case fault.KindOf(err) == fault.NotFound:
		case err != nil:
			return 0, err
		case who.Active():
			n++
		}
	}
	return n, nil
}

// Deny ends a request.
func (s *Service) Deny(ctx context.Context, ref, comment string) (grant.Grant, error) {
	return s.over(ctx, ref, grant.Approve, grant.Pending, grant.Denied, comment)
}

// Revoke ends an active grant before its time.
func (s *Service) Revoke(ctx context.Context, ref, comment string) (grant.Grant, error) {
	return s.over(ctx, ref, grant.Revoke, grant.Active, grant.Revoked, comment)
}

// Cancel withdraws a request of the caller's, or gives a grant back.
func (s *Service) Cancel(ctx context.Context, ref string) (grant.Grant, error) {
	g, err := s.permitted(ctx, s.store.View(), ref, grant.Request)
	if err != nil {
		return grant.Grant{}, err
	}
	if !own(access.ActorFrom(ctx), g) {
		return grant.Grant{}, fault.New(fault.Precondition, "grant_of_another", "grant %s was asked for by somebody else", g.ID).
			WithHint("deny it, or revoke it")
	}
	if g.At(s.now()) == grant.Active {
		return s.over(ctx, ref, grant.Request, grant.Active, grant.Returned, "")
	}
	return s.over(ctx, ref, grant.Request, grant.Pending, grant.Cancelled, "")
}

func (s *Service) over(ctx context.Context, ref string, p access.Permission, from, to grant.State, comment string) (grant.Grant, error) {
	if err := checkComment(comment); err != nil {
		return grant.Grant{}, err
	}
	actor := access.ActorFrom(ctx)
	return s.change(ctx, ref, p, from, comment, func(tx Tx, g grant.Grant) (grant.Grant, error) {
		g.Comment = comment
		return s.end(ctx, tx, g, to, actor.ID)
	})
}

// end is a grant that is over, without the binding that it was in force by.
func (s *Service) end(ctx context.Context, tx Tx, g grant.Grant, to grant.State, by string) (grant.Grant, error) {
	g.State, g.EndedAt, g.EndedBy = to, s.now(), by
	if g.BindingID == "" {
		return g, nil
	}
	b, err := tx.Binding(ctx, g.BindingID)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return g, nil
	case err != nil:
		return g, err
	}
	return g, tx.DeleteBinding(ctx, b)
}

// change does something to a grant that the caller may do it to and that is in a state.
func (s *Service) change(ctx context.Context, ref string, p access.Permission, from grant.State, comment string, do func(Tx, grant.Grant) (grant.Grant, error)) (grant.Grant, error) {
	var out grant.Grant
	err := s.store.Write(ctx, func(tx Tx) error {
		before, err := s.permitted(ctx, tx, ref, p)
		if err != nil {
			return err
		}
		if now := s.now(); before.At(now) != from {
			return notInState(before, now, from)
		}
		if out, err = do(tx, before); err != nil {
			return err
		}
		if out, err = tx.PutGrant(ctx, out); err != nil {
			return err
		}
		e := audit.Of(access.ActorFrom(ctx), p, out.Scope, out.ID, out.RoleName).Because(comment).Change(describe(before), describe(out))
		if e.Ticket == "" {
			e.Ticket = out.Ticket
		}
		return tx.Audit(ctx, e)
	})
	return out, err
}
