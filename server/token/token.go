// Package token mints, rotates, revokes and consumes enrolment tokens.
//
// Minting stays within the deployment's limits as the workspace's policy narrows them, and within a workspace where the
// minter may mint: nobody makes a token that reaches further than they do. The string is in the answer once; only its
// keyed hash is kept.
//
// Consuming happens inside the transaction that registers the host, so that a use is taken if and only if the host
// exists. The hash is compared in constant time before anything else is said: who holds the whole string learns exactly
// why it does not work, everybody else that it is unknown. A refusal rolls that transaction back; it is then recorded
// in one of its own, as an audit entry and as a leak signal on the token. Refusals can be caused by strangers at will,
// so the first of a kind from a network is written at once, and those that repeat are merged into one a minute.
//
// Revoking takes effect with its commit: an enrolment in flight either came before it, and its host is among those that
// the revocation may quarantine or expel, or is refused. What becomes of the hosts is an operation, written in the
// same transaction, so that a revocation which was acknowledged is never without the work that it promised.
package token

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// Reader reads tokens.
type Reader interface {
	Token(ctx context.Context, id string) (token.Token, error)
	Tokens(ctx context.Context, q token.Query) ([]token.Token, string, error)
}

// Tx is one transaction over tokens and what goes with them.
type Tx interface {
	Uses
	Workspace(ctx context.Context, id string) (tenant.Workspace, error)
	PutOperation(ctx context.Context, o operation.Operation) (operation.Operation, error)
	OperationByRequest(ctx context.Context, actor, requestID string) (operation.Operation, error)
}

// Store is where tokens are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Tenants finds a workspace where the caller holds a permission.
type Tenants interface {
	Workspace(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
}

// Options of the service.
type Options struct {
	Limits         token.Limits                  // of the deployment
	Pepper         []byte                        // keys the hashes
	Anchor         func() [token.AnchorSize]byte // start of the SHA-256 of the anchor key: whom agents are to trust
	InstallCommand func(channel string) string   // what to run on a server
	Logger         *slog.Logger                  // nil: slog.Default
	Now            func() time.Time
}

// Service is tokens as people and enrolments work with them.
type Service struct {
	store    Store
	tenants  Tenants
	options  Options
	refusals *audit.Repeats[refusal]
}

// NewService makes the service. Its Run writes what merged refusals are left.
func NewService(store Store, tenants Tenants, o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Service{store: store, tenants: tenants, options: o, refusals: audit.NewRepeats[refusal](refusalWindow, refusalKeys)}
}

// Minted is a token with its string, which cannot be had again.
type Minted struct {
	Token          token.Token
	Secret         token.Secret
	InstallCommand string
}

// Standing is what follows from a token now: its state, and what somebody should look at.
func (s *Service) Standing(t token.Token) (token.State, []token.Warning) {
	now := s.options.Now()
	return t.State(now), t.Warnings(now)
}

// Get is a token by id, or by its name where one token in the caller's sight has it.
func (s *Service) Get(ctx context.Context, ref string) (token.Token, error) {
	return s.find(ctx, ref, token.List)
}

// List is the tokens that the caller may see, newest first. workspace may be empty.
func (s *Service) List(ctx context.Context, workspace string, states []token.State, page tenant.Page) ([]token.Token, string, error) {
	q := token.Query{Readable: access.ActorFrom(ctx).Readable(token.List), States: states, Now: s.options.Now(), Page: page}
	var c fault.Check
	for _, state := range states {
		c.That(slices.Contains(token.States, state), "states", "has %q; allowed are active, exhausted, expired, revoked", state)
	}
	if err := c.Err("token_query_invalid", "the query is not valid"); err != nil {
		return nil, "", err
	}
	if workspace != "" {
		w, err := s.tenants.Workspace(ctx, workspace, token.List)
		if err != nil {
			return nil, "", err
		}
		q.Within = w.Scope()
	}
	return s.store.View().Tokens(ctx, q)
}

func (s *Service) find(ctx context.Context, ref string, p access.Permission) (token.Token, error) {
	what := "token " + ref
	actor := access.ActorFrom(ctx)
	if id.Valid("tok", ref) {
		t, err := s.store.View().Token(ctx, ref)
		if fault.KindOf(err) == fault.NotFound {
			return token.Token{}, access.NotFound(what)
		}
		if err != nil {
			return token.Token{}, err
		}
		return t, actor.Require(p, t.Scope, token.List, what)
	}
	if ref == "" {
		var c fault.Check
		c.Add("token", "is missing: give an id or a name")
		return token.Token{}, c.Err("request_invalid", "the request is not valid")
	}
	readable := append(actor.Readable(p), actor.Readable(token.List)...)
	found, _, err := s.store.View().Tokens(ctx, token.Query{Readable: readable, Name: ref, Now: s.options.Now(), Page: tenant.Page{Size: tenant.MaxPage}})
	if err != nil {
		return token.Token{}, err
	}
	if len(found) > 1 {
		// A name goes on to the successor: whoever says it means the token that is in use.
		found = slices.DeleteFunc(found, func(t token.Token) bool {
			return t.SuccessorID != "" || t.State(s.options.Now()) != token.Active
		})
		if len(found) != 1 {
			return token.Token{}, fault.New(fault.Invalid, "token_ambiguous", "%q names several tokens", ref).
				WithHint("give the token's id: loopback token list")
		}
	}
	if len(found) == 0 {
		return token.Token{}, access.NotFound(what)
	}
	return found[0], actor.Require(p, found[0].Scope, token.List, what)
}

// record is a token as the audit log shows it: never its hash.
type record struct {
	ID               string         `json:"id"`
	Name             string         `json:"name"`
	Description      string         `json:"description,omitempty"`
	Labels           label.Set      `json:"labels,omitempty"`
	ExpiresAt        time.Time      `json:"expiresAt"`
	MaxUses          int32          `json:"maxUses"`
	Uses             int32          `json:"uses"`
	AllowedNetworks  []string       `json:"allowedNetworks,omitempty"`
	HostNamePattern  string         `json:"hostNamePattern,omitempty"`
	RequiresApproval bool           `json:"requiresApproval,omitempty"`
	HostLabels       label.Set      `json:"hostLabels,omitempty"`
	Channel          string         `json:"channel"`
	EphemeralTTL     string         `json:"ephemeralTtl,omitempty"`
	Honeytoken       bool           `json:"honeytoken,omitempty"`
	Signals          []token.Signal `json:"signals,omitempty"`
	SuccessorID      string         `json:"successorId,omitempty"`
	RevokedAt        time.Time      `json:"revokedAt,omitzero"`
	Reason           string         `json:"reason,omitempty"`
}

func describe(t token.Token) record {
	r := record{
		ID: t.ID, Name: t.Name, Description: t.Description, Labels: t.Labels, ExpiresAt: t.ExpiresAt, MaxUses: t.MaxUses,
		Uses: t.Uses, HostNamePattern: t.HostNamePattern, RequiresApproval: t.RequiresApproval, HostLabels: t.HostLabels,
		Channel: t.Channel, Honeytoken: t.Honeytoken, Signals: t.Signals, SuccessorID: t.SuccessorID,
		RevokedAt: t.RevokedAt, Reason: t.Reason,
	}
	for _, n := range t.AllowedNetworks {
		r.AllowedNetworks = append(r.AllowedNetworks, n.String())
	}
	if t.EphemeralTTL > 0 {
		r.EphemeralTTL = t.EphemeralTTL.String()
	}
	return r
}

var errAlreadyRevoked = errors.New("already revoked")
