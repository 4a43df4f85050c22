package link

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/state"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

// EnrolOptions say as what to enrol, and where. All but Labels and Log are needed.
type EnrolOptions struct {
	Config    config.Config
	Store     *state.Store
	Token     token.Secret
	HostName  string
	Version   string
	Inventory host.Inventory
	Labels    label.Set
	Log       *slog.Logger

	Dial Dial // nil: by package wire, as Config says
}

// ErrAnchorConflict says that token and configuration belong to different deployments.
var ErrAnchorConflict = fault.New(fault.Invalid, "anchor_conflict", "the token was minted by another deployment than agent.yaml trusts").
	WithHint("use a token of the deployment that agent.yaml names; or remove the line anchor: from it, to move this host to the token's deployment")

// Enrol makes this host known to the control plane, and stores who it is.
//
// A host that is enrolled already is left as it is: its identity is the answer and nobody is asked. Otherwise a key is
// made and stored before it is shown to anybody, so that whatever is interrupted, by a lost answer or a power cut, is
// finished by calling Enrol again: the control plane knows the key, and gives the answer that was lost without another
// use of the token. Enrol itself tries again, with growing pauses, until ctx ends; it gives up at once when it is refused
// for good, or when what answers is not the control plane that the token names. The error is a *fault.Error.
func Enrol(ctx context.Context, o EnrolOptions) (state.Identity, error) {
	identity, err := o.Store.Identity()
	switch {
	case errors.Is(err, state.ErrNoIdentity):
		if identity, err = newIdentity(o.Store); err != nil {
			return state.Identity{}, err
		}
	case err != nil:
		return state.Identity{}, err
	case identity.Enrolled():
		return identity, nil
	}
	if o.Config.Anchor != (trust.AnchorHash{}) && o.Config.Anchor != o.Token.Anchor {
		return state.Identity{}, ErrAnchorConflict
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = Dialler(o.Config)
	}
	for failures := 0; ; failures++ {
		var err error
		for _, endpoint := range o.Config.Endpoints {
			var enrolled state.Identity
			if enrolled, err = enrolAt(ctx, o, endpoint, identity); err == nil {
				return enrolled, nil
			}
			if givesUp(err) {
				return state.Identity{}, fault.Of(err)
			}
			o.Log.Warn("the host is not enrolled yet", "endpoint", endpoint, "code", fault.Of(err).Code, "error", fault.Of(err))
		}
		if err == nil {
			return state.Identity{}, fault.New(fault.Invalid, "config_incomplete", "no endpoint is configured")
		}
		timer := time.NewTimer(max(backoff(failures, rand.Float64()), fault.Of(err).RetryAfter))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return state.Identity{}, fault.Of(err) // what stands in the way says more than that time is up
		}
	}
}

// givesUp tells which failures do not pass by waiting.
func givesUp(err error) bool {
	switch fault.Of(err).Kind {
	case fault.Unavailable, fault.Timeout, fault.Exhausted, fault.Conflict, fault.Canceled:
		return errors.Is(err, errFinal)
	case fault.Internal:
		var known *fault.Error
		return !errors.As(err, &known) || errors.Is(err, errFinal)
	default:
		return true
	}
}

func newIdentity(store *state.Store) (state.Identity, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return state.Identity{}, fmt.Errorf("make the identity key: %w", err)
	}
	i := state.Identity{Generation: 1, Key: key, KeySince: time.Now()}
	return i, store.PutIdentity(i)
}

// enrolAt asks one endpoint once.
func enrolAt(ctx context.Context, o EnrolOptions, endpoint string, identity state.Identity) (state.Identity, error) {
	known, _, err := o.Store.Trust(o.Token.Anchor)
	if err != nil {
		return identity, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+welcomeTimeout)
	defer cancel()
	conn, err := o.Dial(ctx, endpoint, known.Anchors, known.Version)
	if err != nil {
		return identity, err
	}
	defer conn.Close()
	if known, _, err = known.Accept(conn.Signed()); err != nil {
		return identity, err
	}
	answer, err := askToEnrol(ctx, o, conn, identity.Key)
	if err != nil {
		return identity, err
	}
	if err := o.Store.PutTrust(known); err != nil {
		return identity, err
	}
	now := time.Now()
	identity.HostID, identity.HostName, identity.WorkspaceID = answer.HostId, answer.HostName, answer.WorkspaceId
	identity.Channel, identity.EnrolledAt, identity.KeySince = answer.Channel, now, now
	return identity, o.Store.PutIdentity(identity)
}

func askToEnrol(ctx context.Context, o EnrolOptions, conn Conn, key ed25519.PrivateKey) (*pb.Enrolled, error) {
	b, err := proto.Marshal(&pb.AgentFrame{Body: &pb.AgentFrame_Enrol{Enrol: &pb.Enrol{
		Token:        o.Token.Reveal(),
		Proof:        wire.SignProof(key, wire.RoleEnrol, "", conn.Hash()),
		HostName:     o.HostName,
		AgentVersion: o.Version,
		Inventory:    inventoryOut(o.Inventory),
		Ceiling:      ceilingOut(o.Config.Allow),
		Labels:       o.Labels,
	}}})
	if err != nil {
		return nil, fmt.Errorf("encode the enrolment: %w", err)
	}
	if err := conn.Send(ctx, b); err != nil {
		return nil, err
	}
	for {
		b, err := conn.Receive(ctx)
		if err != nil {
			return nil, err
		}
		f := &pb.ServerFrame{}
		if err := proto.Unmarshal(b, f); err != nil {
			return nil, errFrame.WithCause(err)
		}
		if r := f.GetRefusal(); r != nil {
			return nil, refusal(r)
		}
		if e := f.GetEnrolled(); e != nil {
			if e.HostId == "" {
				return nil, errFrame
			}
			return e, nil
		}
	}
}
