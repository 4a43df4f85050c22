package server

import (
	"cmp"
	"context"
	"net/netip"
	"net/url"
	"strings"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/server/apikey"
	"github.com/loopbackd/loopback/server/console"
	"github.com/loopbackd/loopback/server/invitation"
	"github.com/loopbackd/loopback/server/passkey"
	providers "github.com/loopbackd/loopback/server/provider"
	"github.com/loopbackd/loopback/server/rpc"
	signins "github.com/loopbackd/loopback/server/signin"
	"github.com/loopbackd/loopback/signin"
)

// credentials tells who shows a credential of either kind.
type credentials struct {
	keys    *apikey.Service
	signIns *signins.Service
}

var _ rpc.Authenticator = credentials{}

func (c credentials) Authenticate(ctx context.Context, credential string, from netip.Addr) (access.Actor, error) {
	if strings.HasPrefix(credential, signin.Prefix+"_") {
		return c.signIns.Authenticate(ctx, credential, from)
	}
	return c.keys.Authenticate(ctx, credential, from)
}

// browsers gives the console what sign-ins begin and end with.
type browsers struct {
	credentials
	providers *providers.Service
	passkeys  *passkey.Service

	invitations *invitation.Service
}

var (
	_ console.SignIns  = browsers{}
	_ console.Journeys = browsers{}
)

func (b browsers) Leave(ctx context.Context, providerID, back, held string) (to, kept string, err error) {
	to, kept, err = b.providers.Begin(ctx, providerID, back, held)
	if err != nil {
		b.signIns.Attempted(signin.OIDC, err)
	}
	return to, kept, err
}

func (b browsers) LeaveInvited(ctx context.Context, providerID, text string) (to, kept string, err error) {
	i, err := b.invitations.Open(ctx, text)
	if err == nil {
		to, kept, err = b.providers.BeginInvited(ctx, providerID, text)
	}
	if err != nil {
		return "", "", b.signIns.Refused(ctx, signin.OIDC, cmp.Or(i.ID, "invitation"), err)
	}
	return to, kept, nil
}

func (b browsers) Return(ctx context.Context, providerID, kept, agent string, q url.Values) (_ console.Begun, back, held string, err error) {
	came, err := b.providers.Finish(ctx, providerID, kept, q)
	if err != nil {
		return console.Begun{}, came.Back, came.Held, b.signIns.Refused(ctx, signin.OIDC, target(providerID), err)
	}
	in, err := begun(b.signIns.Begin(ctx, signins.Start{User: came.User, Method: signin.OIDC, Via: came.Provider, Agent: agent, ProvedAt: came.ProvedAt, MFAAt: came.MFAAt}))
	return in, came.Back, came.Held, err
}

// target is an id for the audit log; what a stranger made up is not written down.
func target(providerID string) string {
	if !id.Valid("idp", providerID) {
		return "provider"
	}
	return providerID
}

func (b browsers) WithKey(ctx context.Context, key, agent string) (console.Begun, error) {
	actor, err := b.keys.Authenticate(ctx, key, address(ctx))
	if err != nil {
		b.signIns.Attempted(signin.APIKey, err) // who refused it recorded it
		return console.Begun{}, err
	}
	return begun(b.signIns.Begin(ctx, signins.Start{User: actor.Principal, Method: signin.APIKey, Via: actor.ID, KeyID: actor.ID, Agent: agent}))
}

func (b browsers) WithPasskey(ctx context.Context, ceremony, response, agent string) (console.Begun, error) {
	proved, err := b.passkeys.FinishSignIn(ctx, ceremony, response)
	if err != nil {
		return console.Begun{}, b.signIns.Refused(ctx, signin.Passkey, cmp.Or(proved.Passkey, "passkey"), err)
	}
	return begun(b.signIns.Begin(ctx, signins.Start{User: proved.User, Method: signin.Passkey, Via: proved.Passkey, Agent: agent, ProvedAt: proved.At, MFAAt: proved.At}))
}

func (b browsers) WithInvitation(ctx context.Context, text, ceremony, response, name, agent string) (console.Begun, error) {
	i, err := b.invitations.Open(ctx, text)
	if err != nil {
		return console.Begun{}, b.uninvited(ctx, i.ID, err)
	}
	made, err := b.passkeys.FinishInvited(ctx, i, ceremony, response, name)
	if err != nil {
		return console.Begun{}, b.uninvited(ctx, i.ID, err)
	}
	// Who makes a passkey showed no second factor by that: what takes one asks for it.
	return begun(b.signIns.Begin(ctx, signins.Start{User: made.User, Method: signin.Passkey, Via: made.Passkey, Agent: agent, ProvedAt: made.At}))
}

// uninvited records that an invitation, or what came with it, let nobody in.
func (c credentials) uninvited(ctx context.Context, invitationID string, err error) error {
	return c.signIns.Refused(ctx, signin.Passkey, cmp.Or(invitationID, "invitation"), err)
}

func (b browsers) End(ctx context.Context, secret string, everywhere bool) error {
	actor, err := b.signIns.Authenticate(access.AskedAgain(ctx), secret, address(ctx))
	if fault.KindOf(err) == fault.Unauthenticated {
		return nil
	}
	if err != nil {
		return err
	}
	actor.Address = access.ActorFrom(ctx).Address
	ctx = access.WithActor(ctx, actor)
	if everywhere {
		_, err = b.signIns.EndMine(ctx)
		return err
	}
	return b.signIns.End(ctx, "")
}

func (b browsers) Replace(ctx context.Context, secret string) error {
	return b.signIns.Replace(ctx, secret, address(ctx))
}

func begun(in signin.SignIn, secret string, err error) (console.Begun, error) {
	return console.Begun{Secret: secret, ExpiresAt: in.ExpiresAt}, err
}

func address(ctx context.Context) netip.Addr {
	a, _ := netip.ParseAddr(access.ActorFrom(ctx).Address)
	return a
}
