// Package provider sets up identity providers and lets people in who come from one.
//
// A sign-in goes to the provider and back (OpenID Connect Core 1.0, authorization code flow): Begin makes a state, a nonce
// and a PKCE verifier (RFC 7636) and gives the browser all three sealed in a cookie, so that nothing is kept here and no other
// browser can finish what this one began. Finish takes the code to the provider it was asked of, by that provider's own
// return address, and believes the ID token if its signature, issuer, audience, times (a minute of skew) and nonce are right.
// Only asymmetric signatures count. What goes wrong with the token is in the log, not in the answer.
//
// A provider that is down lets nobody in by that way and keeps nobody out by another; who is signed in stays so. New keys of
// the provider are fetched when a token names one.
package provider

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/invitation"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/provider"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads providers and who people are there.
type Reader interface {
	Provider(ctx context.Context, id string) (provider.Provider, error)
	ProviderNamed(ctx context.Context, name string) (provider.Provider, error)
	Providers(ctx context.Context) ([]provider.Provider, error)
	Identity(ctx context.Context, id string) (provider.Identity, error)
	Identities(ctx context.Context, q provider.Query) ([]provider.Identity, string, error)
}

// People are the users and groups that a provider's word changes.
type People interface {
	Principal(ctx context.Context, id string) (principal.Principal, error)
	Principals(ctx context.Context, q principal.Query) ([]principal.Principal, string, error)
	Group(ctx context.Context, id string) (principal.Group, error)
	PutPrincipal(ctx context.Context, p principal.Principal) (principal.Principal, error)
	PutGroup(ctx context.Context, g principal.Group) (principal.Group, error)
	Owners(ctx context.Context) ([]string, error)
}

// Tx changes them.
type Tx interface {
	Reader
	People
	PutProvider(ctx context.Context, p provider.Provider) (provider.Provider, error)
	DeleteProvider(ctx context.Context, p provider.Provider) error
	Invited
	PutIdentity(ctx context.Context, i provider.Identity) (provider.Identity, error)
	DeleteIdentity(ctx context.Context, i provider.Identity) error
	Audit(ctx context.Context, e audit.Entry) error
}

// Invited are the invitations that people come by.
type Invited interface {
	Invitation(ctx context.Context, id string) (invitation.Invitation, error)
	PutInvitation(ctx context.Context, i invitation.Invitation) (invitation.Invitation, error)
}

// Invitations tell which one a string is of, while it works.
type Invitations interface {
	Open(ctx context.Context, text string) (invitation.Invitation, error)
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Tenants finds an organisation where the caller holds a permission.
type Tenants interface {
	Organisation(ctx context.Context, ref string, p access.Permission) (tenant.Organisation, error)
}

// Subjects finds groups and users where the caller may read them.
type Subjects interface {
	GetGroup(ctx context.Context, ref string) (principal.Group, error)
	Get(ctx context.Context, kind access.SubjectKind, ref string) (principal.Principal, error)
}

// Options of the service.
type Options struct {
	PublicURL string // where people reach this control plane; providers send them back there
	Seal      []byte // 32 bytes: what secrets and the state of sign-ins are sealed with

	Invitations Invitations
	Logger      *slog.Logger
	Now         func() time.Time
}

// Service is providers as people work with them, and the way in by them.
type Service struct {
	store    Store
	tenants  Tenants
	subjects Subjects
	options  Options
	seal     cipher.AEAD

	mu    sync.Mutex
	known map[string]known // by id of the provider
}

// NewService makes the service.
func NewService(store Store, tenants Tenants, subjects Subjects, o Options) (*Service, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	block, err := aes.NewCipher(o.Seal)
	if err != nil {
		return nil, err
	}
	seal, err := cipher.NewGCM(block)
	return &Service{store: store, tenants: tenants, subjects: subjects, options: o, seal: seal, known: map[string]known{}}, err
}

// Fields are what is set of a provider; nil stays as it is.
type Fields struct {
	Issuer       *string
	ClientID     *string
	Secret       *string // empty: a public client
	CA           *string
	Scopes       []string // empty: as it is, or the default
	Disabled     *bool
	Organisation *string // id or name; empty: the deployment
	CreateUsers  *bool
	Domains      *[]string
	GroupsClaim  *string
	Groups       *map[string]string // the provider's group to ours, by id or name
	TrustMFA     *bool
	MFAValues    *[]string
	Revision     int64
}

func set[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

// fill sets the fields, but for the secret.
func (s *Service) fill(ctx context.Context, p *provider.Provider, f Fields) error {
	set(&p.Issuer, f.Issuer)
	set(&p.ClientID, f.ClientID)
	set(&p.CA, f.CA)
	set(&p.Disabled, f.Disabled)
	set(&p.CreateUsers, f.CreateUsers)
	set(&p.Domains, f.Domains)
	set(&p.GroupsClaim, f.GroupsClaim)
	set(&p.TrustMFA, f.TrustMFA)
	set(&p.MFAValues, f.MFAValues)
	if len(f.Scopes) > 0 {
		p.Scopes = f.Scopes
	}
	if len(p.Scopes) == 0 {
		p.Scopes = provider.DefaultScopes
	}
	if f.Organisation != nil {
		p.Organisation = ""
		if *f.Organisation != "" {
			o, err := s.tenants.Organisation(ctx, *f.Organisation, principal.UsersCreate)
			if err != nil {
				return err
			}
			p.Organisation = o.ID
		}
	}
	if f.Groups != nil {
		p.Groups = map[string]string{}
		for theirs, ours := range *f.Groups {
			g, err := s.subjects.GetGroup(ctx, ours)
			if err != nil {
				return err
			}
			p.Groups[theirs] = g.ID
		}
	}
	var c fault.Check
	p.Validate(&c)
	if p.CA != "" {
		c.That(x509.NewCertPool().AppendCertsFromPEM([]byte(p.CA)), "ca", "holds no PEM certificate")
	}
	c.That(f.Secret == nil || len(*f.Secret) <= 1024, "secret", "is longer than 1024 bytes")
	return c.Err("provider_invalid", "the provider is not valid")
}

// whole demands a permission over the deployment, and everything else besides where something is decided by it.
func whole(ctx context.Context, p access.Permission, what string) error {
	actor := access.ActorFrom(ctx)
	if err := actor.Require(p, access.Scope{}, provider.Read, what); err != nil {
		if p == provider.Create && actor.Kind != access.Anonymous {
			return access.Denied(p)
		}
		return err
	}
	if lacking := actor.Covers(access.Rule{Permissions: []access.Permission{access.All}}); p != provider.Read && len(lacking) > 0 {
		return fault.New(fault.Denied, "permission_denied", "who sets up a provider decides who signs in as whom: besides %s it takes everything over the whole deployment", p).
			WithHint("ask an owner of the deployment")
	}
	return nil
}

// Create makes a provider.
func (s *Service) Create(ctx context.Context, name string, f Fields) (provider.Provider, error) {
	if err := whole(ctx, provider.Create, "provider "+name); err != nil {
		return provider.Provider{}, err
	}
	now := s.options.Now()
	p := provider.Provider{Meta: tenant.Meta{ID: id.New("idp", now), Name: name, CreatedAt: now}}
	if err := s.fill(ctx, &p, f); err != nil {
		return provider.Provider{}, err
	}
	if f.Secret != nil && *f.Secret != "" {
		p.Sealed = s.sealed(p.ID, []byte(*f.Secret))
	}
	err := s.store.Write(ctx, func(tx Tx) error {
		var err error
		if p, err = tx.PutProvider(ctx, p); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), provider.Create, access.Scope{}, p.ID, p.Name).Change(nil, describe(p)))
	})
	return p, err
}

// Get is one by id or name.
func (s *Service) Get(ctx context.Context, ref string) (provider.Provider, error) {
	return s.find(ctx, ref, provider.Read)
}

func (s *Service) find(ctx context.Context, ref string, p access.Permission) (provider.Provider, error) {
	if ref == "" {
		var c fault.Check
		c.Add("identityProvider", "is missing: give the id or name of a provider")
		return provider.Provider{}, c.Err("request_invalid", "the request is not valid")
	}
	what := "provider " + ref
	if err := whole(ctx, p, what); err != nil {
		return provider.Provider{}, err
	}
	read := s.store.View().ProviderNamed
	if id.Valid("idp", ref) {
		read = s.store.View().Provider
	}
	out, err := read(ctx, ref)
	if fault.KindOf(err) == fault.NotFound {
		err = access.NotFound(what)
	}
	return out, err
}

// List is all of them for who may read them, none for others.
func (s *Service) List(ctx context.Context) ([]provider.Provider, error) {
	if !access.ActorFrom(ctx).Decide(provider.Read, access.Scope{}).Allowed {
		return nil, nil
	}
	return s.store.View().Providers(ctx)
}

// Offered are those that the sign-in page shows, to anybody.
func (s *Service) Offered(ctx context.Context) ([]provider.Provider, error) {
	all, err := s.store.View().Providers(ctx)
	return slices.DeleteFunc(all, func(p provider.Provider) bool { return p.Disabled }), err
}

// Update changes a provider.
func (s *Service) Update(ctx context.Context, ref string, f Fields) (provider.Provider, error) {
	p, err := s.find(ctx, ref, provider.Update)
	if err != nil {
		return p, err
	}
	before := p
	if f.Revision != 0 && f.Revision != p.Revision {
		return p, errChanged
	}
	if f.Issuer != nil && *f.Issuer != p.Issuer {
		return p, fault.New(fault.Precondition, "provider_issuer_fixed", "a provider's issuer cannot be changed: people are known by it").
			WithHint("make another provider")
	}
	if err := s.fill(ctx, &p, f); err != nil {
		return p, err
	}
	if f.Secret != nil {
		p.Sealed = nil
		if *f.Secret != "" {
			p.Sealed = s.sealed(p.ID, []byte(*f.Secret))
		}
	}
	err = s.store.Write(ctx, func(tx Tx) error {
		now, err := tx.Provider(ctx, p.ID)
		if err != nil {
			return err
		}
		if now.Revision != before.Revision {
			return errChanged
		}
		if p, err = tx.PutProvider(ctx, p); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), provider.Update, access.Scope{}, p.ID, p.Name).Change(describe(before), describe(p)))
	})
	return p, err
}

var errChanged = fault.New(fault.Conflict, "provider_changed", "the provider was changed by somebody else meanwhile").WithHint("read it again and repeat")

// Delete removes a provider and forgets who people were there. They stay signed in.
func (s *Service) Delete(ctx context.Context, ref string) error {
	p, err := s.find(ctx, ref, provider.Delete)
	if err != nil {
		return err
	}
	return s.store.Write(ctx, func(tx Tx) error {
		p, err := tx.Provider(ctx, p.ID)
		if err != nil {
			return err
		}
		if err := tx.DeleteProvider(ctx, p); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), provider.Delete, access.Scope{}, p.ID, p.Name).Change(describe(p), nil))
	})
}

// Link says who a provider's subject is here. One who is linked already is linked anew.
func (s *Service) Link(ctx context.Context, ref, subject, user string) (provider.Identity, error) {
	p, err := s.find(ctx, ref, provider.Update)
	if err != nil {
		return provider.Identity{}, err
	}
	u, err := s.subjects.Get(ctx, access.User, user)
	if err != nil {
		return provider.Identity{}, err
	}
	var c fault.Check
	c.That(subject != "" && len(subject) <= 255, "subject", "is empty, or longer than 255 bytes: it is the sub claim of the provider's tokens")
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return provider.Identity{}, err
	}
	i := identity(p, subject, s.options.Now())
	i.UserID = u.ID
	err = s.store.Write(ctx, func(tx Tx) error {
		if _, err := tx.Principal(ctx, u.ID); err != nil {
			return err
		}
		var before any
		switch old, err := tx.Identity(ctx, i.ID); {
		case err == nil:
			before = describeIdentity(old)
		case fault.KindOf(err) != fault.NotFound:
			return err
		}
		if i, err = tx.PutIdentity(ctx, i); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), provider.Update, u.Scope, u.ID, u.Name).Change(before, describeIdentity(i)))
	})
	return i, err
}

// Unlink forgets who a provider's subject is here.
func (s *Service) Unlink(ctx context.Context, ref, subject string) error {
	p, err := s.find(ctx, ref, provider.Update)
	if err != nil {
		return err
	}
	return s.store.Write(ctx, func(tx Tx) error {
		i, err := tx.Identity(ctx, identity(p, subject, s.options.Now()).ID)
		if fault.KindOf(err) == fault.NotFound {
			return access.NotFound("subject " + subject)
		}
		if err != nil {
			return err
		}
		if err := tx.DeleteIdentity(ctx, i); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), provider.Update, access.Scope{}, i.UserID, i.Name).Change(describeIdentity(i), nil))
	})
}

// Identities are whom a provider let in, newest first.
func (s *Service) Identities(ctx context.Context, ref string, page tenant.Page) ([]provider.Identity, string, error) {
	p, err := s.find(ctx, ref, provider.Read)
	if err != nil {
		return nil, "", err
	}
	return s.store.View().Identities(ctx, provider.Query{Provider: p.ID, Page: page})
}

// identity is who a subject of a provider is. The id follows from both: two providers with one issuer know the same people.
func identity(p provider.Provider, subject string, now time.Time) provider.Identity {
	sum := sha256.Sum256([]byte(p.Issuer + "\x00" + subject))
	return provider.Identity{Meta: tenant.Meta{ID: "idn_" + hex.EncodeToString(sum[:16]), CreatedAt: now}, ProviderID: p.ID, Issuer: p.Issuer, Subject: subject}
}

// sealed encrypts something under a name; it opens under no other.
func (s *Service) sealed(name string, plain []byte) []byte {
	nonce := make([]byte, s.seal.NonceSize())
	rand.Read(nonce)
	return s.seal.Seal(nonce, nonce, plain, []byte("provider "+name))
}

func (s *Service) open(name string, sealed []byte) ([]byte, bool) {
	n := s.seal.NonceSize()
	if len(sealed) < n {
		return nil, false
	}
	plain, err := s.seal.Open(nil, sealed[:n], sealed[n:], []byte("provider "+name))
	return plain, err == nil
}

// describe is a provider in the audit log: never its secret.
func describe(p provider.Provider) map[string]any {
	return map[string]any{"name": p.Name, "issuer": p.Issuer, "clientId": p.ClientID, "secret": len(p.Sealed) > 0, "scopes": p.Scopes, "disabled": p.Disabled,
		"organisation": p.Organisation, "createUsers": p.CreateUsers, "domains": p.Domains, "groupsClaim": p.GroupsClaim, "groups": p.Groups,
		"trustMfa": p.TrustMFA, "mfaValues": p.MFAValues, "ownCa": p.CA != ""}
}

func describeIdentity(i provider.Identity) map[string]any {
	return map[string]any{"provider": i.ProviderID, "subject": i.Subject, "user": i.UserID}
}

var errLastOwner = policy.ErrLastOwner
