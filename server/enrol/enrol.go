// Package enrol makes a host out of a machine that shows a token.
//
// One transaction takes a use of the token, registers the machine's identity key as a host and writes the audit entries:
// there is no host without a use and no use without a host. What the machine is told can be lost on the way, so asking
// again is harmless: a key that is known already gets the answer that it got before, and the token is not looked at.
// That holds for every token, of other workspaces too: a key is one host, wherever it lives. A removed host's key stays
// dead: the machine becomes a new host only with a new key.
//
// Whoever gets here has proved possession of the key on a sealed link. Everything else the machine says of itself is a
// claim: its name is made unique, its labels yield to the token's.
package enrol

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// Reader reads what decides an enrolment.
type Reader interface {
	HostByKey(ctx context.Context, key []byte) (h host.Host, which string, err error)
	Host(ctx context.Context, id string) (host.Host, error)
}

// Tx is the transaction of an enrolment.
type Tx interface {
	Reader
	Uses
	Hosts(ctx context.Context, q host.Query) (items []host.Host, next string, total int64, err error)
	Workspace(ctx context.Context, id string) (tenant.Workspace, error)
	PutHost(ctx context.Context, h host.Host) (host.Host, error)
}

// Uses is what taking a use of a token needs of the transaction.
type Uses interface {
	Token(ctx context.Context, id string) (token.Token, error)
	PutToken(ctx context.Context, t token.Token) (token.Token, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where hosts are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Tokens takes uses of tokens.
type Tokens interface {
	// Consume takes one use inside the transaction, with its audit entry, or tells why not.
	Consume(ctx context.Context, tx Uses, presented token.Secret, from netip.Addr, hostName string, now time.Time) (token.Token, error)
	// Refused records a refusal, outside of the transaction that it ended.
	Refused(ctx context.Context, presented token.Secret, from netip.Addr, hostName string, cause error)
}

// Fleet is every host in memory.
type Fleet interface {
	Learn(ctx context.Context, hosts ...host.Host)
}

// Request is a machine's wish to become a host. Possession of Key has been proved.
type Request struct {
	Token        string
	Key          ed25519.PublicKey
	HostName     string
	AgentVersion string
	Inventory    host.Inventory
	Ceiling      host.Ceiling
	Labels       label.Set
	From         netip.Addr
}

// Service enrols.
type Service struct {
	store  Store
	tokens Tokens
	fleet  Fleet
	now    func() time.Time

	mu    sync.Mutex
	given map[string]int // by workspace and base of a name: the number given last; a hint, right or not
}

// NewService makes the service.
func NewService(store Store, tokens Tokens, fleet Fleet, now func() time.Time) *Service {
	return &Service{store: store, tokens: tokens, fleet: fleet, now: now, given: map[string]int{}}
}

// Enrol is the host that the machine is from now on, or is already.
func (s *Service) Enrol(ctx context.Context, r Request) (host.Host, error) {
	if h, err := known(ctx, s.store.View(), r.Key); err == nil || fault.KindOf(err) != fault.NotFound {
		return h, err
	}
	if err := r.validate(); err != nil {
		return host.Host{}, err
	}
	presented, err := token.ParseSecret(strings.TrimSpace(r.Token))
	if err != nil {
		return host.Host{}, err
	}
	var out host.Host
	var fresh bool
	now := s.now().UTC()
	newID := id.New("hst", now)
	err = s.store.Write(ctx, func(tx Tx) error {
		fresh = false
		var err error
		if out, err = known(ctx, tx, r.Key); err == nil || fault.KindOf(err) != fault.NotFound {
			return err
		}
		t, err := s.tokens.Consume(ctx, tx, presented, r.From, r.HostName, now)
		if err != nil {
			return err
		}
		before, h, err := s.place(ctx, tx, t, r, newID, now)
		if err != nil {
			return err
		}
		if out, err = tx.PutHost(ctx, h); err != nil {
			return err
		}
		fresh = true
		return tx.Audit(ctx, entry(t, before, out, r))
	})
	if err != nil {
		if refusal(err) {
			s.tokens.Refused(ctx, presented, r.From, r.HostName, err)
		}
		return host.Host{}, err
	}
	if fresh {
		s.fleet.Learn(ctx, out)
	}
	return out, nil
}

// refusal tells whether an error says something about the token and who presents it.
func refusal(err error) bool {
	kind := fault.KindOf(err)
	return (kind == fault.Unauthenticated || kind == fault.Denied) && strings.HasPrefix(fault.Of(err).Code, "token_")
}

// known is the host that a key is or was; NotFound where it is nobody's.
func known(ctx context.Context, r Reader, key ed25519.PublicKey) (host.Host, error) {
	h, _, err := r.HostByKey(ctx, key)
	if err != nil {
		return host.Host{}, err
	}
	if h.Lifecycle == host.LifecycleRemoved {
		return host.Host{}, host.ErrRemoved
	}
	return h, nil
}

const (
	maxHostName = 255
	maxVersion  = 128
)

func (r Request) validate() error {
	var c fault.Check
	c.That(len(r.Key) == ed25519.PublicKeySize, "key", "has %d bytes; an Ed25519 public key has %d", len(r.Key), ed25519.PublicKeySize)
	c.That(len(r.HostName) <= maxHostName, "hostName", "is %d bytes long; at most %d are allowed", len(r.HostName), maxHostName)
	c.That(len(r.AgentVersion) <= maxVersion, "agentVersion", "is %d bytes long; at most %d are allowed", len(r.AgentVersion), maxVersion)
	r.Labels.Validate(&c, "labels")
	return c.Err("enrolment_invalid", "the enrolment is not valid")
}

// place makes the host. A machine that was in the inventory without an agent, under the very name, becomes managed: the
// second value is what it was.
func (s *Service) place(ctx context.Context, tx Tx, t token.Token, r Request, newID string, now time.Time) (before *host.Host, h host.Host, err error) {
	w, err := tx.Workspace(ctx, t.Scope.Workspace)
	if err != nil {
		return nil, h, err
	}
	return s.placeIn(ctx, tx, w, t, r, newID, now)
}

// placeIn makes the host in a workspace.
func (s *Service) placeIn(ctx context.Context, tx Tx, w tenant.Workspace, t token.Token, r Request, newID string, now time.Time) (before *host.Host, h host.Host, err error) {
	base := host.CleanName(r.HostName)
	find := func(name string) (*host.Host, error) {
		found, _, _, err := tx.Hosts(ctx, host.Query{Readable: access.Over(w.Scope()), Within: w.Scope(), Name: name, Page: tenant.Page{Size: 1}})
		if err != nil || len(found) == 0 {
			return nil, err
		}
		return &found[0], nil
	}
	// The plain name is always looked at: it may have become free, or been given to the inventory, since.
	there, err := find(base)
	if err != nil {
		return nil, h, err
	}
	if there != nil && there.Lifecycle == host.LifecycleUnmanaged {
		before, h = there, *there
	} else {
		name := base
		if there != nil {
			hint := w.ID + "/" + base
			var number int
			name, number, err = host.FreeName(base, max(s.hint(hint), 2), func(name string) (bool, error) {
				there, err := find(name)
				return there != nil, err
			})
			if err != nil {
				return nil, h, fmt.Errorf("finding a free name: %w", err)
			}
			s.remember(hint, number)
		}
		h = host.Host{Meta: tenant.Meta{ID: newID, Name: name, CreatedAt: now}, Scope: w.Scope()}
	}
	labels := label.Set{}
	maps.Copy(labels, r.Labels)
	maps.Copy(labels, h.Labels)
	maps.Copy(labels, t.HostLabels)
	var c fault.Check
	labels.Validate(&c, "labels")
	if err := c.Err("enrolment_invalid", "the host would have labels that are not valid"); err != nil {
		return nil, h, err
	}
	h.Labels, h.ForcedLabels = labels, slices.Sorted(maps.Keys(t.HostLabels))
	h.Key, h.Generation = slices.Clone(r.Key), 1
	h.TokenID, h.EnrolledAt, h.Channel, h.EphemeralTTL = t.ID, now, t.Channel, t.EphemeralTTL
	if r.From.IsValid() {
		h.EnrolledFrom = r.From.Unmap().String()
	}
	h.AgentVersion, h.Inventory, h.Ceiling = r.AgentVersion, r.Inventory, r.Ceiling
	h.OfflineSince = now
	switch {
	case t.RequiresApproval:
		h.Lifecycle, h.LifecycleReason = host.LifecyclePending, "its token demands approval"
	case w.Tokens.RequireApproval:
		h.Lifecycle, h.LifecycleReason = host.LifecyclePending, "its workspace demands approval"
	default:
		h.Lifecycle, h.LifecycleReason = host.LifecycleActive, ""
	}
	h.Settle(now)
	return before, h, nil
}

// hints bounds how many names are remembered.
const hints = 10_000

func (s *Service) hint(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.given[key]; n > 0 {
		return n + 1
	}
	return 0
}

// remember is a side effect of a transaction that may be rolled back or run again: it only says where to look first.
func (s *Service) remember(key string, number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.given) >= hints {
		clear(s.given)
	}
	s.given[key] = number
}

// record is what the audit log shows of an enrolment.
type record struct {
	Name        string         `json:"name"`
	Workspace   string         `json:"workspace"`
	Lifecycle   host.Lifecycle `json:"lifecycle"`
	Labels      label.Set      `json:"labels,omitempty"`
	Token       string         `json:"tokenId,omitempty"`
	Fingerprint string         `json:"keyFingerprint,omitempty"`
	Channel     string         `json:"channel,omitempty"`
}

func describe(h host.Host) record {
	r := record{h.Name, h.Scope.Workspace, h.Lifecycle, h.Labels, h.TokenID, "", h.Channel}
	if len(h.Key) > 0 {
		sum := sha256.Sum256(h.Key)
		r.Fingerprint = hex.EncodeToString(sum[:])
	}
	return r
}

func entry(t token.Token, before *host.Host, h host.Host, r Request) audit.Entry {
	actor := access.Actor{Kind: access.Host, ID: h.ID, Name: h.Name}
	if r.From.IsValid() {
		actor.Address = r.From.Unmap().String()
	}
	var was any
	if before != nil {
		was = describe(*before)
	}
	e := audit.Of(actor, host.Enrol, h.Scope, h.ID, h.Name).Change(was, describe(h))
	e.Decision = t.ID // the token is what allowed it
	return e
}
