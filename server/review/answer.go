package review

import (
	"context"
	"maps"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/review"
	"github.com/loopbackd/loopback/tenant"
)

// Reply is what somebody says to bindings under review.
type Reply struct {
	Bindings  []string
	Verdict   review.Verdict // review.Kept or review.Revoked
	Rationale string         // empty: the call's reason
}

// Answer keeps bindings, or revokes them: all, or none. The last answer closes the review.
func (s *Service) Answer(ctx context.Context, ref string, a Reply) (review.Review, error) {
	actor := access.ActorFrom(ctx)
	if a.Rationale == "" {
		a.Rationale = actor.Reason
	}
	var c fault.Check
	review.CheckAnswer(&c, a.Bindings, a.Verdict, a.Rationale)
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return review.Review{}, err
	}
	var out review.Review
	err := s.store.Write(ctx, func(tx Tx) error {
		r, err := s.open(ctx, tx, ref, review.Answer)
		if err != nil {
			return err
		}
		who, err := s.reviewer(ctx, tx, actor)
		if err != nil {
			return err
		}
		for _, binding := range a.Bindings {
			i, err := tx.ReviewItem(ctx, r.ID, binding)
			if err != nil {
				return err
			}
			if i.Verdict != review.Unasked {
				return fault.New(fault.Precondition, "access_review_answered", "%s was answered already: %s", binding, i.Verdict).
					WithHint("see who did: loopback review show %s", r.ID)
			}
			if err := s.another(ctx, tx, who, i); err != nil {
				return err
			}
			i.Rationale, i.By, i.ByName, i.At = a.Rationale, who.ID, who.Name, s.now().UTC()
			if i.Verdict, err = s.settle(ctx, tx, i, a.Verdict); err != nil {
				return err
			}
			if err := s.note(ctx, tx, actor, review.Answer, &r, i); err != nil {
				return err
			}
		}
		out, err = s.close(ctx, tx, actor, r)
		return err
	})
	return out, err
}

// open is a review that can still be answered.
func (s *Service) open(ctx context.Context, tx Tx, ref string, p access.Permission) (review.Review, error) {
	r, err := s.permitted(ctx, tx, ref, p)
	if err != nil {
		return r, err
	}
	if r.State != review.Open || !s.now().Before(r.DueAt) {
		state := r.State
		if state == review.Open {
			state = review.Overdue
		}
		return r, fault.New(fault.Precondition, "access_review_over", "the review %s is %s", r.Name, state).
			WithHint("see what came of it: loopback review show %s", r.ID)
	}
	return r, nil
}

// reviewer is the person who answers.
func (s *Service) reviewer(ctx context.Context, tx Tx, actor access.Actor) (principal.Principal, error) {
	if principal.Kind(actor.Principal) != access.User {
		return principal.Principal{}, fault.New(fault.Precondition, "access_review_not_a_person", "only people review, and you act as none").
			WithHint("answer with a key, or a session, of a user")
	}
	return tx.Principal(ctx, actor.Principal)
}

// another demands that who answers does not hold the binding, as any account of theirs.
func (s *Service) another(ctx context.Context, tx Tx, who principal.Principal, i review.Item) error {
	people, err := holders(ctx, tx, i.Subject)
	if err != nil {
		return err
	}
	for _, held := range people {
		p, err := tx.Principal(ctx, held)
		if fault.KindOf(err) == fault.NotFound {
			continue
		}
		if err != nil {
			return err
		}
		if principal.SamePerson(who, p) {
			as := ""
			if p.ID != who.ID {
				as = " as " + p.Name
			}
			return fault.New(fault.Denied, "access_review_own", "nobody reviews access of their own, and you hold %s (%s to %s)%s", i.BindingID, i.RoleName, i.Who, as).
				WithHint("somebody else has to answer")
		}
	}
	return nil
}

// settle does what a verdict says, and tells what became of the binding.
func (s *Service) settle(ctx context.Context, tx Tx, i review.Item, v review.Verdict) (review.Verdict, error) {
	b, err := tx.Binding(ctx, i.BindingID)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return review.Gone, nil
	case err != nil:
		return "", err
	case !b.NotAfter.IsZero() && !b.NotAfter.After(s.now()):
		return review.Gone, nil
	case v == review.Kept || v == review.Unanswered:
		return v, nil
	}
	before, err := tx.Owners(ctx)
	if err != nil {
		return "", err
	}
	if err := tx.DeleteBinding(ctx, b); err != nil {
		return "", err
	}
	after, err := tx.Owners(ctx)
	if err == nil && len(before) > 0 && len(after) == 0 {
		err = policy.ErrLastOwner
	}
	return v, err
}

// note writes what became of an item down.
func (s *Service) note(ctx context.Context, tx Tx, actor access.Actor, p access.Permission, r *review.Review, i review.Item) error {
	r.Counts = maps.Clone(r.Counts)
	r.Counts[review.Unasked]--
	r.Counts[i.Verdict]++
	if err := tx.PutReviewItem(ctx, i); err != nil {
		return err
	}
	e := audit.Of(actor, p, i.Scope, i.BindingID, i.RoleName).Because(i.Rationale).Change(nil, describeItem(r.ID, i))
	if p == review.Answer { // the permission was held over the review's place, which holds the binding's
		e = e.By(actor.Decide(p, r.Scope))
	}
	return tx.Audit(ctx, e)
}

// close writes a review, which is done when nothing is left to be answered.
func (s *Service) close(ctx context.Context, tx Tx, actor access.Actor, r review.Review) (review.Review, error) {
	if r.Counts[review.Unasked] == 0 && r.State == review.Open {
		r.State, r.ClosedAt = review.Done, s.now().UTC()
		if err := tx.Audit(ctx, audit.Of(actor, review.Answer, r.Scope, r.ID, r.Name).Change(nil, describe(r, nil))); err != nil {
			return r, err
		}
	}
	return tx.PutReview(ctx, r)
}

// Cancel ends a review; what was answered stays so.
func (s *Service) Cancel(ctx context.Context, ref, reason string) (review.Review, error) {
	var c fault.Check
	c.That(len(reason) <= access.MaxReason, "reason", "is %d bytes long; at most %d are allowed", len(reason), access.MaxReason)
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return review.Review{}, err
	}
	var out review.Review
	err := s.store.Write(ctx, func(tx Tx) error {
		before, err := s.open(ctx, tx, ref, review.Cancel)
		if err != nil {
			return err
		}
		out = before
		out.State, out.ClosedAt = review.Cancelled, s.now().UTC()
		if out, err = tx.PutReview(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), review.Cancel, out.Scope, out.ID, out.Name).Because(reason).Change(describe(before, nil), describe(out, nil)))
	})
	return out, err
}

// lookEvery is how often it is looked for reviews whose time is over.
const lookEvery = 30 * time.Second

// Run ends reviews whose time is over, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "reviews whose time is over could not be ended", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// atOnce is how many items are read at once.
const atOnce = 100

// worker is who ends what nobody answered for.
var worker = access.Actor{Kind: access.System, Name: "access reviews"}

// Sweep ends reviews whose time is over. Replicas may do it at once.
func (s *Service) Sweep(ctx context.Context) error {
	due, _, err := s.store.View().Reviews(ctx, review.Query{Readable: access.Everywhere(), States: []review.State{review.Open}, DueBy: s.now(), Page: tenant.Page{Size: tenant.MaxPage}})
	if err != nil {
		return err
	}
	for _, r := range due {
		if err := s.expire(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// expire ends what nobody answered for, and then the review. It may be interrupted after any item, and goes on from there.
func (s *Service) expire(ctx context.Context, r review.Review) error {
	q := review.ItemQuery{Review: r.ID, Verdicts: []review.Verdict{review.Unasked}, Page: tenant.Page{Size: atOnce}}
	for {
		items, _, err := s.store.View().ReviewItems(ctx, q)
		if err != nil {
			return err
		}
		if len(items) == 0 {
			return s.overdue(ctx, r.ID)
		}
		for _, i := range items {
			verdict, why := review.Unanswered, "nobody answered in time"
			if r.Revoke {
				verdict = review.Expired
			}
			err := s.expireItem(ctx, i, verdict, why)
			if f := fault.Of(err); f != nil && f.Code == policy.ErrLastOwner.Code {
				err = s.expireItem(ctx, i, review.Unanswered, why+"; it stays, since nobody else owns the deployment")
			}
			if err != nil {
				return err
			}
		}
	}
}

func (s *Service) expireItem(ctx context.Context, seen review.Item, v review.Verdict, why string) error {
	return s.store.Write(ctx, func(tx Tx) error {
		r, err := tx.Review(ctx, seen.ReviewID)
		if err != nil || r.State != review.Open {
			return err
		}
		i, err := tx.ReviewItem(ctx, seen.ReviewID, seen.BindingID)
		if err != nil || i.Verdict != review.Unasked {
			return err // another replica was at it
		}
		i.Rationale, i.At = why, s.now().UTC()
		if i.Verdict, err = s.settle(ctx, tx, i, v); err != nil {
			return err
		}
		if err := s.note(ctx, tx, worker, review.Expire, &r, i); err != nil {
			return err
		}
		_, err = tx.PutReview(ctx, r)
		return err
	})
}

// overdue closes a review of which nothing is left to be answered.
func (s *Service) overdue(ctx context.Context, reviewID string) error {
	return s.store.Write(ctx, func(tx Tx) error {
		r, err := tx.Review(ctx, reviewID)
		if err != nil || r.State != review.Open || r.Counts[review.Unasked] > 0 {
			return err
		}
		r.State, r.ClosedAt = review.Overdue, s.now().UTC()
		out := describe(r, nil)
		for q := (review.ItemQuery{Review: r.ID, Verdicts: []review.Verdict{review.Expired, review.Unanswered}, Page: tenant.Page{Size: tenant.MaxPage}}); ; {
			left, next, err := tx.ReviewItems(ctx, q)
			if err != nil {
				return err
			}
			for _, i := range left {
				out.Unhandled = append(out.Unhandled, i.BindingID)
			}
			if q.Page.Token = next; next == "" {
				break
			}
		}
		if _, err := tx.PutReview(ctx, r); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(worker, review.Expire, r.Scope, r.ID, r.Name).Change(nil, out))
	})
}
