// Package passkey makes, shows and removes passkeys, and tells who shows one.
//
// A ceremony (WebAuthn Level 3, 7.1 and 7.2) has two halves, and any replica can do the second. What the first half decided, the
// challenge, what it is for and for whom, travels sealed with the browser, so that strangers who begin ceremonies cost the
// database nothing; it opens for that one purpose, for five minutes. The second half notes its id in the transaction that acts on
// it: an answer that comes again, here or on another replica, is refused. User verification is always demanded.
//
// Who has a passkey shows it before making or removing one, so that a stolen sign-in cannot make itself at home. A sign-in that
// is bounded by an API key makes none: it would hold more than the key, and outlive it. The last way in is removed only by who
// says so. What goes wrong with an answer is in the log, not in the error.
package passkey

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/url"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/invitation"
	"github.com/loopbackd/loopback/passkey"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads passkeys and whose they are.
type Reader interface {
	Passkey(ctx context.Context, id string) (passkey.Passkey, error)
	PasskeyByCredential(ctx context.Context, credential []byte) (passkey.Passkey, error)
	Passkeys(ctx context.Context, q passkey.Query) ([]passkey.Passkey, string, error)
	Principal(ctx context.Context, id string) (principal.Principal, error)
	SignIn(ctx context.Context, id string) (signin.SignIn, error)
	OtherWaysIn(ctx context.Context, user string, now time.Time) (int64, error)
	Invitation(ctx context.Context, id string) (invitation.Invitation, error)
}

// Tx changes them.
type Tx interface {
	Reader
	PutPasskey(ctx context.Context, p passkey.Passkey) (passkey.Passkey, error)
	DeletePasskey(ctx context.Context, p passkey.Passkey) error
	PutInvitation(ctx context.Context, i invitation.Invitation) (invitation.Invitation, error)
	SpendCeremony(ctx context.Context, id string, until time.Time) (first bool, err error)
	PutSignIn(ctx context.Context, s signin.SignIn) (signin.SignIn, error)
	EndSignInsVia(ctx context.Context, user, via, except string, at time.Time, why string) ([]string, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Users finds users where the caller may read them.
type Users interface {
	Get(ctx context.Context, kind access.SubjectKind, ref string) (principal.Principal, error)
}

// Options of the service.
type Options struct {
	PublicURL string // where people open the console: its host is the domain that passkeys are good for
	Users     Users
	Seal      []byte // 32 bytes: what ceremonies are sealed with
	Logger    *slog.Logger
	Now       func() time.Time
}

// Service is passkeys as people work with them, and what they show.
type Service struct {
	store   Store
	options Options
	box     secret.Box
	domain  string             // empty: passkeys cannot be had at this address
	party   *webauthn.WebAuthn // nil there
}

// NewService makes the service.
func NewService(store Store, o Options) (*Service, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	box, err := secret.NewBox(o.Seal)
	if err != nil {
		return nil, err
	}
	s := &Service{store: store, options: o, box: box}
	u, err := url.Parse(o.PublicURL)
	if err != nil {
		return nil, err
	}
	if s.domain = passkey.Domain(o.PublicURL); s.domain == "" {
		return s, nil
	}
	verified := true
	s.party, err = webauthn.New(&webauthn.Config{
		RPID: s.domain, RPDisplayName: "Loopback", RPOrigins: []string{u.Scheme + "://" + u.Host},
		AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			RequireResidentKey: &verified, ResidentKey: protocol.ResidentKeyRequirementRequired, UserVerification: protocol.VerificationRequired},
		Timeouts: webauthn.TimeoutsConfig{Login: webauthn.TimeoutConfig{Timeout: passkey.Life}, Registration: webauthn.TimeoutConfig{Timeout: passkey.Life}},
	})
	return s, err
}

// Domain that passkeys are good for; empty where they cannot be had.
func (s *Service) Domain() string { return s.domain }

// Ceremony is the first half of one: what the browser needs.
type Ceremony struct {
	Text      string // sent back with the answer
	Options   []byte // JSON
	ExpiresAt time.Time
}

// purpose is what a ceremony is for: one that was begun for something opens for nothing else.
type purpose string

const (
	registering purpose = "register"
	signingIn   purpose = "sign in"
	steppingUp  purpose = "step up"
	invited     purpose = "invited"
)

// state is what travels with the browser.
type state struct {
	ID         string               `json:"i"`
	User       string               `json:"u,omitempty"`
	SignIn     string               `json:"s,omitempty"`
	Invitation string               `json:"n,omitempty"`
	Until      time.Time            `json:"t"`
	Session    webauthn.SessionData `json:"w"`
}

func (s *Service) seal(p purpose, st state, options any) (Ceremony, error) {
	st.ID, st.Until = id.New("cer", s.options.Now()), s.options.Now().Add(passkey.Life)
	plain, err := json.Marshal(st)
	if err != nil {
		return Ceremony{}, err
	}
	shown, err := json.Marshal(options)
	if err != nil {
		return Ceremony{}, err
	}
	return Ceremony{base64.RawURLEncoding.EncodeToString(s.box.Seal("ceremony: "+string(p), string(plain))), shown, st.Until}, nil
}

// open is what a ceremony was begun with. It is Over for any other purpose, and after its time.
func (s *Service) open(p purpose, text string) (state, error) {
	var st state
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return st, passkey.ErrOver
	}
	plain, ok := s.box.Open("ceremony: "+string(p), sealed)
	if !ok || json.Unmarshal([]byte(plain), &st) != nil || !s.options.Now().Before(st.Until) {
		return state{}, passkey.ErrOver
	}
	return st, nil
}

// spend uses a ceremony up. It comes before all else in the transaction that acts on it.
func spend(ctx context.Context, tx Tx, st state) error {
	first, err := tx.SpendCeremony(ctx, st.ID, st.Until)
	if err == nil && !first {
		return passkey.ErrOver
	}
	return err
}

func (s *Service) available() error {
	if s.party == nil {
		return passkey.Unavailable(s.options.PublicURL)
	}
	return nil
}

// person is a user as the protocol knows them. Their handle is their id: it says nothing of them.
type person struct {
	principal.Principal
	keys []passkey.Passkey
}

func (p person) WebAuthnID() []byte          { return []byte(p.ID) }
func (p person) WebAuthnName() string        { return p.Name }
func (p person) WebAuthnDisplayName() string { return p.Name }

func (p person) WebAuthnCredentials() []webauthn.Credential {
	out := make([]webauthn.Credential, len(p.keys))
	for i, k := range p.keys {
		out[i] = webauthn.Credential{ID: k.CredentialID, PublicKey: k.PublicKey, Transport: transports(k.Transports),
			Flags:         webauthn.CredentialFlags{UserPresent: true, UserVerified: true, BackupEligible: k.BackupEligible, BackupState: k.BackedUp},
			Authenticator: webauthn.Authenticator{AAGUID: k.AAGUID, SignCount: k.SignCount}}
	}
	return out
}

func transports(names []string) (out []protocol.AuthenticatorTransport) {
	for _, n := range names {
		out = append(out, protocol.AuthenticatorTransport(n))
	}
	return out
}

func (p person) descriptors() []protocol.CredentialDescriptor {
	return webauthn.Credentials(p.WebAuthnCredentials()).CredentialDescriptors()
}

// person is a user with the passkeys that are good at our domain.
func (s *Service) person(ctx context.Context, r Reader, user string) (person, error) {
	p, err := r.Principal(ctx, user)
	if fault.KindOf(err) == fault.NotFound || err == nil && !p.Active() {
		return person{}, passkey.ErrUser
	}
	if err != nil {
		return person{}, err
	}
	list, _, err := r.Passkeys(ctx, passkey.Query{Readable: access.Everywhere(), User: user, Page: tenant.Page{Size: tenant.MaxPage}})
	out := person{Principal: p}
	for _, k := range list {
		if k.Domain == s.domain {
			out.keys = append(out.keys, k)
		}
	}
	return out, err
}

// caller is who signed in and calls, with their passkeys.
func (s *Service) caller(ctx context.Context) (access.Actor, person, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.SignIn {
		return actor, person{}, access.Denied(access.SelfManage)
	}
	p, err := s.person(ctx, s.store.View(), actor.Principal)
	return actor, p, err
}

// disbelieved is the answer to what does not verify; why is in the log.
func (s *Service) disbelieved(ctx context.Context, what string, why error) error {
	detail := ""
	if p, ok := why.(*protocol.Error); ok {
		detail = p.DevInfo
	}
	s.options.Logger.InfoContext(ctx, "a passkey's answer is not valid", "to", what, "error", why, "detail", detail, "address", access.ActorFrom(ctx).Address)
	return passkey.ErrInvalid.WithCause(why)
}

// record is a passkey as the audit log shows it.
type record struct {
	User       string    `json:"user"`
	Name       string    `json:"name"`
	Domain     string    `json:"domain"`
	BackedUp   bool      `json:"backedUp,omitempty"`
	SignCount  uint32    `json:"signCount,omitempty"`
	LastUsedAt time.Time `json:"lastUsedAt,omitzero"`
}

func describe(p passkey.Passkey) record {
	return record{p.UserID, p.Name, p.Domain, p.BackedUp, p.SignCount, p.LastUsedAt}
}
