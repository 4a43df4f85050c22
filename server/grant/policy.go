package grant

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/webhook"
)

// defaultDuration is how long a grant can be where the policy does not say.
const defaultDuration = 8 * time.Hour

// NewPolicy is what a policy is made from.
type NewPolicy struct {
	Place
	Name        string
	Description string
	Labels      label.Set
	Role        string // id or name; empty: any
	Approvals   int
	Approvers   []string // groups, by id or name
	Ticket      string
	MaxDuration time.Duration // 0: 8 hours
	Wait        time.Duration // 0: a day
	Webhook     string
	CA          string
	Secret      string // empty: one is made
}

// CreatePolicy offers a role. The webhook's secret is in the answer, for the only time.
func (s *Service) CreatePolicy(ctx context.Context, n NewPolicy) (grant.Policy, string, error) {
	at, err := s.places.Scope(ctx, n.Organisation, n.Project, n.Workspace, grant.PoliciesCreate)
	if err != nil {
		return grant.Policy{}, "", err
	}
	actor, now := access.ActorFrom(ctx), s.now()
	p := grant.Policy{
		Meta: tenant.Meta{ID: id.New("gpo", now), Name: n.Name, Labels: n.Labels, CreatedAt: now}, Scope: at, Description: n.Description, CA: n.CA, CreatedBy: actor.ID,
		Terms: grant.Terms{Approvals: n.Approvals, Ticket: n.Ticket, MaxDuration: n.MaxDuration, Wait: n.Wait, Webhook: n.Webhook},
	}
	if p.Terms.MaxDuration == 0 {
		p.Terms.MaxDuration = defaultDuration
	}
	if p.Terms.Wait == 0 {
		p.Terms.Wait = grant.DefaultWait
	}
	tierZero := false
	if n.Role != "" {
		role, err := s.roles.RoleAt(ctx, n.Role, at)
		if err != nil {
			return grant.Policy{}, "", err
		}
		p.RoleID, p.Role = role.ID, role.Revision
		for _, held := range role.Permissions {
			tierZero = tierZero || s.known.IsTierZero(held)
		}
	}
	for _, ref := range n.Approvers {
		group, err := s.subjects.Subject(ctx, access.Group, ref)
		if err != nil {
			return grant.Policy{}, "", err
		}
		p.Terms.Approvers = append(p.Terms.Approvers, group.ID)
	}
	var c fault.Check
	p.Validate(&c, tierZero, policy.MaxTierZero)
	p.Labels.Validate(&c, "labels")
	key := n.Secret
	if p.Terms.Webhook == "" {
		c.That(key == "" && n.CA == "", "webhook", "is missing, though its secret or its CA is given")
	} else {
		if key == "" {
			key = webhook.NewSecret()
		}
		if _, err := webhook.Key(key); err != nil {
			c.Add("secret", "is not whsec_ and base64 of 24 to 64 bytes; leave it out to get one")
		}
		if _, err := client(p); err != nil {
			c.Add("ca", "holds no PEM certificate")
		}
		p.Sealed = s.seal.Seal(p.ID, key)
	}
	if err := c.Err("grant_policy_invalid", "the policy is not valid"); err != nil {
		return grant.Policy{}, "", err
	}
	err = s.store.Write(ctx, func(tx Tx) error {
		if p.RoleID != "" {
			role, err := tx.Role(ctx, p.RoleID)
			if err != nil {
				return err
			}
			p.Role = role.Revision
			rule := s.binding(grant.Grant{Scope: at, RoleID: role.ID, Duration: p.Terms.MaxDuration}, s.now()).Rule(role)
			if lacking := actor.Covers(rule); len(lacking) > 0 {
				return fault.New(fault.Denied, "permission_not_held", "you cannot offer what you do not hold there: %v", lacking).
					WithHint("ask somebody who holds them")
			}
		}
		var err error
		if p, err = tx.PutGrantPolicy(ctx, p); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, grant.PoliciesCreate, at, p.ID, p.Name).Change(nil, describePolicy(p)))
	})
	return p, key, err
}

// Policy is one by id.
func (s *Service) Policy(ctx context.Context, ref string) (grant.Policy, error) {
	return s.permittedPolicy(ctx, s.store.View(), ref, grant.PoliciesRead)
}

func (s *Service) permittedPolicy(ctx context.Context, r Policies, ref string, need access.Permission) (grant.Policy, error) {
	if ref == "" {
		var c fault.Check
		c.Add("grantPolicy", "is missing: give the id of a policy")
		return grant.Policy{}, c.Err("request_invalid", "the request is not valid")
	}
	p, err := r.GrantPolicy(ctx, ref)
	if err != nil {
		return grant.Policy{}, err
	}
	return p, access.ActorFrom(ctx).Require(need, p.Scope, grant.PoliciesRead, "grant policy "+ref)
}

// Policies are those that the caller may read, newest first.
func (s *Service) Policies(ctx context.Context, at Place, page tenant.Page) ([]grant.Policy, string, error) {
	q := grant.PolicyQuery{Readable: access.ActorFrom(ctx).Readable(grant.PoliciesRead), Page: page}
	if at != (Place{}) {
		within, err := s.places.Scope(ctx, at.Organisation, at.Project, at.Workspace, grant.PoliciesRead)
		if err != nil {
			return nil, "", err
		}
		q.Within = within
	}
	return s.store.View().GrantPolicies(ctx, q)
}

// DeletePolicy ends an offer. What was asked for keeps its terms.
func (s *Service) DeletePolicy(ctx context.Context, ref string) error {
	return s.store.Write(ctx, func(tx Tx) error {
		before, err := s.permittedPolicy(ctx, tx, ref, grant.PoliciesDelete)
		if err != nil {
			return err
		}
		if err := tx.DeleteGrantPolicy(ctx, before); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), grant.PoliciesDelete, before.Scope, before.ID, before.Name).Change(describePolicy(before), nil))
	})
}

type policyRecord struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Role        string   `json:"role,omitempty"`
	Approvals   int      `json:"approvals"`
	Approvers   []string `json:"approvers,omitempty"`
	Ticket      string   `json:"ticket,omitempty"`
	MaxDuration string   `json:"maxDuration"`
	Wait        string   `json:"wait"`
	Webhook     string   `json:"webhook,omitempty"`
}

func describePolicy(p grant.Policy) policyRecord {
	t := p.Terms
	return policyRecord{p.Name, p.Description, p.RoleID, t.Approvals, t.Approvers, t.Ticket, fault.Span(t.MaxDuration), fault.Span(t.Wait), t.Webhook}
}
