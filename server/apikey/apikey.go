// Package apikey makes, lists and revokes API keys, tells whose key a caller presents, and hands the first
// administrator theirs.
//
// A key belongs to whoever makes it, or to a service account, and is good for no more than its maker's own credential.
// What its owner holds bounds it besides, whenever it is used: a key whose owner is disabled, deleted or stripped of a
// role is good for as much less. A key for a service account holds nothing that its maker does not hold. Permissions
// that do not exist are refused, so that a misspelt one is not found out at night.
//
// The first way in is a code that loopbackd prints. Only its keyed hash is kept; it makes a user who owns the deployment,
// with a key for everything or an invitation to make a passkey, and dies when it is used or when an owner has either, whichever
// comes first. A start that finds no owner with a passkey or a live key of that kind, the very first or after all were lost, makes a new code, and the old
// one dies.
//
// Presented keys are looked up in a small cache. The change feed drops a key from it when it is revoked, and an entry
// lives for seconds only, so that a replica which lost its feed fails closed soon. Bad keys are in the audit log, merged
// when they repeat.
package apikey

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/invitation"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/passkey"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/server/recent"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads keys.
type Reader interface {
	Key(ctx context.Context, id string) (apikey.Key, error)
	Keys(ctx context.Context, q apikey.Query) ([]apikey.Key, string, error)
	Deployment(ctx context.Context) (tenant.Deployment, error)
}

// Owners are who keys belong to.
type Owners interface {
	Owners(ctx context.Context) ([]string, error) // of the deployment
	Principals(ctx context.Context, q principal.Query) ([]principal.Principal, string, error)
	Principal(ctx context.Context, id string) (principal.Principal, error)
	PutPrincipal(ctx context.Context, p principal.Principal) (principal.Principal, error)
	PutBinding(ctx context.Context, b policy.Binding) (policy.Binding, error)
}

// Tx is one transaction over keys and the bootstrap code.
type Tx interface {
	Reader
	Owners
	PutKey(ctx context.Context, k apikey.Key) (apikey.Key, error)
	Passkeys(ctx context.Context, q passkey.Query) ([]passkey.Passkey, string, error)
	PutInvitation(ctx context.Context, i invitation.Invitation) (invitation.Invitation, error)
	TouchKey(ctx context.Context, id string, at time.Time) error
	PutDeployment(ctx context.Context, d tenant.Deployment) error
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where keys are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
	Observe(ctx context.Context, change func(Tx) error) error
}

// Tenants finds a place where the caller holds a permission.
type Tenants interface {
	Organisation(ctx context.Context, ref string, p access.Permission) (tenant.Organisation, error)
	Project(ctx context.Context, ref string, p access.Permission) (tenant.Project, error)
	Workspace(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
}

// Principals finds service accounts, where the caller may read them.
type Principals interface {
	Get(ctx context.Context, kind access.SubjectKind, ref string) (principal.Principal, error)
}

// Options of the service.
type Options struct {
	// Policy bounds each key by what its owner holds. Without one a key is good for all that it names: for tests.
	Policy     *access.Policy
	Principals Principals          // nil: no keys for service accounts
	Pepper     []byte              // keys the hashes
	Domain     string              // that passkeys are good for
	Known      []access.Permission // that a key may hold, besides access.All
	Logger     *slog.Logger        // nil: slog.Default
	Now        func() time.Time
}

// Service is API keys as people and callers work with them.
type Service struct {
	store    Store
	tenants  Tenants
	options  Options
	cache    *recent.Cache[apikey.Key]
	refusals *audit.Repeats[refusal]
}

// NewService makes the service. Its Run writes what merged refusals are left.
func NewService(store Store, tenants Tenants, o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Service{store: store, tenants: tenants, options: o, cache: recent.New[apikey.Key](cacheAge, cacheSize), refusals: audit.NewRepeats[refusal](refusalWindow, refusalKeys)}
}

// New is what a key is made from. At most one of the three places is set; none is the whole deployment.
type New struct {
	Name         string
	Description  string
	Labels       label.Set
	Organisation string
	Project      string
	Workspace    string
	Permissions  []access.Permission
	TTL          time.Duration // 0: apikey.DefaultTTL
	// ServiceAccount is whose key it becomes, by id or name; empty: the maker's own.
	ServiceAccount string
}

// Create makes a key. The string is in the answer, for the only time.
func (s *Service) Create(ctx context.Context, n New) (apikey.Key, string, error) {
	at, err := s.place(ctx, n)
	if err != nil {
		return apikey.Key{}, "", err
	}
	actor := access.ActorFrom(ctx)
	owner := actor.Principal
	if n.ServiceAccount != "" {
		if owner, err = s.serviceAccount(ctx, n.ServiceAccount); err != nil {
			return apikey.Key{}, "", err
		}
	}
	if err := s.check(actor, at, n); err != nil {
		return apikey.Key{}, "", err
	}
	permissions := slices.Clone(n.Permissions)
	slices.Sort(permissions)
	k, text := s.make(n.Name, n.TTL)
	k.Description, k.Labels, k.Scope, k.Permissions, k.CreatedBy = n.Description, n.Labels, at, slices.Compact(permissions), actor.ID
	k.OwnerID = owner
	err = s.store.Write(ctx, func(tx Tx) error {
		if actor.Kind == access.APIKey {
			// A key that was revoked a moment ago leaves no heirs.
			maker, err := tx.Key(ctx, actor.ID)
			if err != nil && fault.KindOf(err) != fault.NotFound {
				return err
			}
			if err != nil || !maker.Live(s.options.Now()) {
				return apikey.ErrRevoked
			}
		}
		if owner != "" { // it may have been deleted since
			if _, err := tx.Principal(ctx, owner); err != nil {
				return err
			}
		}
		var err error
		if k, err = tx.PutKey(ctx, k); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, apikey.Create, k.Scope, k.ID, k.Name).Change(nil, describe(k)))
	})
	if err != nil {
		return apikey.Key{}, "", err
	}
	return k, text, nil
}

// serviceAccount is the id of one that the caller may make keys for.
func (s *Service) serviceAccount(ctx context.Context, ref string) (string, error) {
	if s.options.Principals == nil {
		return "", access.NotFound("service account " + ref)
	}
	p, err := s.options.Principals.Get(ctx, access.ServiceAccount, ref)
	if err != nil {
		return "", err
	}
	return p.ID, access.ActorFrom(ctx).Require(apikey.Create, p.Scope, principal.ServiceAccountsRead, "service account "+ref)
}

// make is a key that holds nothing yet, and its string.
func (s *Service) make(name string, ttl time.Duration) (apikey.Key, string) {
	now := s.options.Now()
	if ttl == 0 {
		ttl = apikey.DefaultTTL
	}
	k := apikey.Key{Meta: tenant.Meta{ID: id.New("key", now), Name: name, CreatedAt: now}, ExpiresAt: now.Add(ttl)}
	text := apikey.NewSecret(k.ID)
	k.Hash = s.hash(text)
	return k, text
}

// place is the scope that a key is asked for, where the caller may make keys.
func (s *Service) place(ctx context.Context, n New) (access.Scope, error) {
	given := 0
	for _, ref := range []string{n.Organisation, n.Project, n.Workspace} {
		if ref != "" {
			given++
		}
	}
	if given > 1 {
		var c fault.Check
		c.Add("organisation", "is given along with another place; give one of organisation, project and workspace")
		return access.Scope{}, c.Err("api_key_invalid", "the API key is not valid")
	}
	switch {
	case n.Organisation != "":
		o, err := s.tenants.Organisation(ctx, n.Organisation, apikey.Create)
		return o.Scope(), err
	case n.Project != "":
		p, err := s.tenants.Project(ctx, n.Project, apikey.Create)
		return p.Scope(), err
	case n.Workspace != "":
		w, err := s.tenants.Workspace(ctx, n.Workspace, apikey.Create)
		return w.Scope(), err
	}
	actor := access.ActorFrom(ctx)
	// A key of one's own is bounded by what one holds, wherever that is.
	if actor.Decide(apikey.Create, access.Scope{}).Allowed || n.ServiceAccount == "" && actor.Policy != nil && actor.Bears(apikey.Create, access.Scope{}) {
		return access.Scope{}, nil
	}
	if actor.Kind == access.Anonymous {
		return access.Scope{}, access.ErrUnauthenticated
	}
	return access.Scope{}, fault.New(fault.Denied, "permission_denied", "you may not make keys for the whole deployment").
		WithHint("say where the key is to hold: an organisation, a project or a workspace")
}

func (s *Service) check(actor access.Actor, at access.Scope, n New) error {
	var c fault.Check
	tenant.CheckName(&c, "name", n.Name)
	c.That(len(n.Description) <= tenant.MaxDescription, "description", "is %d bytes long; at most %d are allowed", len(n.Description), tenant.MaxDescription)
	n.Labels.Validate(&c, "labels")
	c.That(n.TTL == 0 || n.TTL >= time.Minute && n.TTL <= apikey.MaxTTL, "ttl", "is %s; allowed are %s to %s", n.TTL, time.Minute, apikey.MaxTTL)
	c.That(len(n.Permissions) > 0, "permissions", "is empty; name at least one, or * for all that you hold everywhere here")
	c.That(len(n.Permissions) <= 256, "permissions", "has %d entries; at most 256 are allowed", len(n.Permissions))
	var lacking []access.Permission
	for i, p := range n.Permissions {
		switch {
		case i >= 256:
		case p != access.All && !slices.Contains(s.options.Known, p):
			c.Add("permissions", "has %q, which is no permission", p)
		case n.ServiceAccount == "" && !actor.Bears(p, at),
			n.ServiceAccount != "" && len(actor.Covers(s.lent(p, at, n.TTL))) > 0:
			lacking = append(lacking, p)
		}
	}
	if err := c.Err("api_key_invalid", "the API key is not valid"); err != nil {
		return err
	}
	if len(lacking) > 0 {
		return fault.New(fault.Denied, "permission_not_held", "you cannot give what you do not hold there: %v", lacking).
			WithHint("leave them out, or ask somebody who holds them")
	}
	return nil
}

// lent is what a key for another gives. Of tier 0 it gives nothing by itself: its owner holds that for a time or not at all. So
// whoever may lend it for a time may name it in a key, which ends as well.
func (s *Service) lent(p access.Permission, at access.Scope, ttl time.Duration) access.Rule {
	r := access.Rule{Permissions: []access.Permission{p}, Scope: at}
	if slices.Contains(access.TierZero(), p) {
		r.NotAfter = s.options.Now().Add(cmp.Or(ttl, apikey.DefaultTTL))
	}
	return r
}

// Get is a key by id.
func (s *Service) Get(ctx context.Context, keyID string) (apikey.Key, error) {
	return permitted(ctx, s.store.View(), keyID, apikey.Read)
}

func permitted(ctx context.Context, r Reader, keyID string, p access.Permission) (apikey.Key, error) {
	what := "API key " + keyID
	if keyID == "" {
		var c fault.Check
		c.Add("apiKey", "is missing: give the id of a key")
		return apikey.Key{}, c.Err("request_invalid", "the request is not valid")
	}
	k, err := r.Key(ctx, keyID)
	if fault.KindOf(err) == fault.NotFound {
		return apikey.Key{}, access.NotFound(what)
	}
	if err != nil {
		return apikey.Key{}, err
	}
	if err := access.ActorFrom(ctx).Require(p, k.Scope, apikey.Read, what); err != nil {
		return apikey.Key{}, err
	}
	return k, nil
}

// Expiry is when the key that the caller presents ends; zero where the caller is no key.
func (s *Service) Expiry(ctx context.Context) (time.Time, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.APIKey {
		return time.Time{}, nil
	}
	k, err := s.lookup(ctx, actor.ID, s.options.Now())
	return k.ExpiresAt, err
}

// List is the keys that the caller may read, newest first.
func (s *Service) List(ctx context.Context, page tenant.Page) ([]apikey.Key, string, error) {
	return s.store.View().Keys(ctx, apikey.Query{Readable: access.ActorFrom(ctx).Readable(apikey.Read), Page: page})
}

// Revoke ends a key. One that was revoked before stays so.
func (s *Service) Revoke(ctx context.Context, keyID string) (apikey.Key, error) {
	var out apikey.Key
	err := s.store.Write(ctx, func(tx Tx) error {
		before, err := permitted(ctx, tx, keyID, apikey.Revoke)
		if err != nil {
			return err
		}
		out = before
		if !before.RevokedAt.IsZero() {
			return nil
		}
		out.RevokedAt = s.options.Now()
		if out, err = tx.PutKey(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), apikey.Revoke, out.Scope, out.ID, out.Name).Change(describe(before), describe(out)))
	})
	s.cache.Drop(keyID)
	return out, err
}

// record is a key as the audit log shows it: never its hash.
type record struct {
	ID          string              `json:"id"`
	Name        string              `json:"name"`
	Description string              `json:"description,omitempty"`
	Labels      label.Set           `json:"labels,omitempty"`
	Permissions []access.Permission `json:"permissions"`
	Owner       string              `json:"owner,omitempty"`
	ExpiresAt   time.Time           `json:"expiresAt"`
	RevokedAt   time.Time           `json:"revokedAt,omitzero"`
}

func describe(k apikey.Key) record {
	return record{ID: k.ID, Name: k.Name, Description: k.Description, Labels: k.Labels, Permissions: k.Permissions, Owner: k.OwnerID,
		ExpiresAt: k.ExpiresAt, RevokedAt: k.RevokedAt}
}
