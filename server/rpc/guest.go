package rpc

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/lxzan/gws"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	noun "github.com/loopbackd/loopback/guest"
	"github.com/loopbackd/loopback/server/guest"
	"github.com/loopbackd/loopback/server/limit"
	"github.com/loopbackd/loopback/shell"
)

// Guests is loopback.v1.GuestService.
type Guests struct {
	Service   *guest.Service
	PublicURL string
}

// InviteGuest makes a link.
func (h Guests) InviteGuest(ctx context.Context, r *connect.Request[v1.InviteGuestRequest]) (*connect.Response[v1.InviteGuestResponse], error) {
	var f fields
	ttl := f.duration("ttl", r.Msg.GetTtl())
	if err := f.err(); err != nil {
		return nil, err
	}
	g, secret, err := h.Service.Invite(ctx, r.Msg.GetSession(), r.Msg.GetName(), ttl)
	return answer(&v1.InviteGuestResponse{Guest: h.guest(g), Secret: secret, Url: h.PublicURL + "/guest/" + g.SessionID + "#" + secret}, err)
}

// ListGuests is those of one session.
func (h Guests) ListGuests(ctx context.Context, r *connect.Request[v1.ListGuestsRequest]) (*connect.Response[v1.ListGuestsResponse], error) {
	items, next, err := h.Service.List(ctx, r.Msg.GetSession(), page(r.Msg.GetPage()))
	return answer(&v1.ListGuestsResponse{Items: each(items, h.guest), NextPageToken: next}, err)
}

// RevokeGuest ends a link.
func (h Guests) RevokeGuest(ctx context.Context, r *connect.Request[v1.RevokeGuestRequest]) (*connect.Response[v1.Guest], error) {
	g, err := h.Service.Revoke(ctx, r.Msg.GetGuest())
	return answer(h.guest(g), err)
}

func (h Guests) guest(g noun.Guest) *v1.Guest {
	return &v1.Guest{
		Id: g.ID, Name: g.Name, CreatedAt: timestamp(g.CreatedAt), UpdatedAt: timestamp(g.UpdatedAt), Revision: g.Revision, Scope: scope(g.Scope),
		SessionId: g.SessionID, HostId: g.HostID, HostName: g.HostName, PrincipalId: g.Inviter.Principal, PrincipalName: g.Inviter.Name,
		Reason: g.Inviter.Reason, Ticket: g.Inviter.Ticket, ExpiresAt: timestamp(g.ExpiresAt), JoinedAt: timestamp(g.JoinedAt), Address: g.Address,
		LeftAt: timestamp(g.LeftAt), RevokedAt: timestamp(g.RevokedAt), State: string(g.State(h.Service.Now())),
	}
}

// GuestTerminal is the WebSocket at /guest/v1/{session}, where a guest watches. See package shell for what travels there. Whoever comes
// proves nothing before their link is looked at, and pays for it with their source's credit each time.
func GuestTerminal(guests Guests, shells Shells, o Options) http.Handler {
	if o.Limits == nil {
		o.Limits = limit.New(limit.Options{})
	}
	e := &edge{options: o}
	t := &guestTerminals{terminals{edge: e, shells: shells}, guests}
	return e.identify(http.HandlerFunc(t.serve))
}

type guestTerminals struct {
	terminals
	guests Guests
}

func (t *guestTerminals) serve(w http.ResponseWriter, r *http.Request) {
	if err := t.take(w, r); err != nil {
		whyNot(w, err)
	}
}

// take lets a guest in whose link works, and carries them until they leave. An error is one from before the WebSocket.
func (t *guestTerminals) take(w http.ResponseWriter, r *http.Request) error {
	from := originFrom(r.Context()).address
	if err := t.edge.options.Limits.Take(from); err != nil {
		return err
	}
	if !sameOrigin(r) {
		return fault.New(fault.Denied, "cross_site", "this request comes from another site")
	}
	secret, protocols := guestSecret(r)
	g, err := t.guests.Service.Open(r.Context(), r.PathValue("session"), secret, from)
	if err != nil {
		return err
	}
	upgrade := upgrades(r)
	done, err := t.edge.options.Limits.Begin(r.Context(), "guest "+g.ID, upgrade)
	if err != nil {
		return err
	}
	defer done()
	if err := t.shells.Service.MayShow(r.Context(), g.SessionID); err != nil {
		return t.pass(r.Context(), w, r, err)
	}
	if !upgrade {
		return errUpgrade
	}
	ctx, end := t.edge.untilStopping(r.Context())
	defer end()
	ctx, leave, err := t.guests.Service.Join(ctx, g, from)
	if err != nil {
		return err
	}
	until := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer func() {
		cancel(nil)
		leave(context.Cause(ctx))
	}()
	pos, _ := strconv.ParseInt(r.URL.Query().Get("pos"), 10, 64) // one that is not there is 0: before what they may see
	v, err := t.shells.Service.Show(ctx, g.SessionID, "guest "+g.Name+", invited by "+g.Inviter.Name+",", pos)
	if err != nil {
		cancel(err)
		return err
	}
	defer v.Close()
	h := &terminal{viewer: v, guest: true, until: until, ctx: ctx, cancel: cancel, acked: make(chan struct{}, 1),
		hello: shell.Hello{Session: g.SessionID, Host: g.HostName, Guest: g.Name, InvitedBy: g.Inviter.Name, Until: g.ExpiresAt}}
	h.carry(w, r, gws.ServerOption{ReadMaxPayloadSize: 64, SubProtocols: protocols})
	return nil
}

// guestSecret is the string of a link that a request shows, and what its WebSocket is negotiated as; see shell.GuestProtocol.
func guestSecret(r *http.Request) (secret string, protocols []string) {
	if _, credential := presented(r.Header); credential != "" {
		return credential, nil
	}
	offered := strings.Split(r.Header.Get("Sec-WebSocket-Protocol"), ",")
	for i := range offered {
		offered[i] = strings.TrimSpace(offered[i])
	}
	if !slices.Contains(offered, shell.GuestProtocol) {
		return "", nil
	}
	for _, one := range offered {
		if strings.HasPrefix(one, noun.Prefix+"_") {
			return one, []string{shell.GuestProtocol}
		}
	}
	return "", nil
}
