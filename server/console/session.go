package console

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
)

// maxBody is more than any authenticator answers.
const maxBody = 32 << 10

// cookieName: the prefix makes browsers refuse it from anybody but this very host, over TLS.
const cookieName = "__Host-loopback"

// Begun is a sign-in that began.
type Begun struct {
	Secret    string
	ExpiresAt time.Time
}

// SignIns begin and end, in the server's words. from is in the context's actor.
type SignIns interface {
	// WithKey begins one with an API key.
	WithKey(ctx context.Context, key, agent string) (Begun, error)
	// WithPasskey begins one with what a passkey answered to a ceremony.
	WithPasskey(ctx context.Context, ceremony, response, agent string) (Begun, error)
	// WithInvitation begins one with an invitation, and the passkey that its user made for it.
	WithInvitation(ctx context.Context, invitation, ceremony, response, name, agent string) (Begun, error)
	// End ends the one whose string this is: it alone, or all of its user. Of what opens nothing there is nothing to end.
	End(ctx context.Context, secret string, everywhere bool) error
	// Replace ends the one that a browser held when it signed in anew.
	Replace(ctx context.Context, secret string) error
}

// Sessions keep a browser's sign-in in a cookie.
//
// The cookie is the string of the sign-in, which a script cannot read (HttpOnly), and which no other site can have sent
// (SameSite=Strict, and a check of where a request comes from). Strict does not break coming back from a provider: the page
// itself needs no cookie, and what it calls then comes from this site. Whoever signs in gets a string of their own, never
// one that was there before, and the one before ends.
type Sessions struct {
	signIns SignIns
	address func(*http.Request) netip.Addr
	origin  *http.CrossOriginProtection
	now     func() time.Time
}

// NewSessions makes them.
func NewSessions(signIns SignIns, address func(*http.Request) netip.Addr, now func() time.Time) *Sessions {
	return &Sessions{signIns: signIns, address: address, origin: http.NewCrossOriginProtection(), now: now}
}

// anonymous is a context in which somebody acts who has not shown yet who they are.
func (s *Sessions) anonymous(r *http.Request) context.Context {
	actor := access.Actor{Kind: access.Anonymous}
	if from := s.address(r); from.IsValid() {
		actor.Address = from.String()
	}
	return access.WithActor(r.Context(), actor)
}

// ServeHTTP signs in (POST with {"key": "lbk_…"}, or {"passkey": {"ceremony": "…", "response": "{…}"}}, which with "invitation" and a
// "name" is one that was made for it) and out (DELETE; with ?everywhere=true, wherever one is signed in).
func (s *Sessions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if err := s.origin.Check(r); err != nil {
		refuse(w, errCrossSite)
		return
	}
	ctx := s.anonymous(r)
	switch r.Method {
	case http.MethodPost:
		var in struct {
			Key     string `json:"key"`
			Passkey *struct {
				Ceremony string `json:"ceremony"`
				Response string `json:"response"`
				Name     string `json:"name"`
			} `json:"passkey"`
			Invitation string `json:"invitation"`
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in); err != nil {
			refuse(w, fault.New(fault.Invalid, "body_invalid", "the body is not JSON with a key or a passkey's answer"))
			return
		}
		var begun Begun
		var err error
		if in.Passkey != nil && in.Invitation != "" {
			begun, err = s.signIns.WithInvitation(ctx, in.Invitation, in.Passkey.Ceremony, in.Passkey.Response, in.Passkey.Name, r.UserAgent())
		} else if in.Passkey != nil {
			begun, err = s.signIns.WithPasskey(ctx, in.Passkey.Ceremony, in.Passkey.Response, r.UserAgent())
		} else {
			begun, err = s.signIns.WithKey(ctx, strings.TrimSpace(in.Key), r.UserAgent())
		}
		if err != nil {
			refuse(w, err)
			return
		}
		s.begin(ctx, w, r, begun)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodDelete:
		if c, err := r.Cookie(cookieName); err == nil {
			if err := s.signIns.End(ctx, c.Value, r.URL.Query().Get("everywhere") == "true"); err != nil {
				refuse(w, err) // the cookie stays: what it opens is still open
				return
			}
		}
		http.SetCookie(w, cookie(cookieName, "", -1))
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", "POST, DELETE")
		w.WriteHeader(http.StatusMethodNotAllowed)
		writeFault(w, fault.New(fault.Invalid, "method_invalid", "POST signs in, DELETE signs out"))
	}
}

// begin gives the browser a new sign-in in the place of the one that it may have.
func (s *Sessions) begin(ctx context.Context, w http.ResponseWriter, r *http.Request, begun Begun) {
	if c, err := r.Cookie(cookieName); err == nil {
		// Who could not be signed out stays signed in until their time is over; the new sign-in does not wait for that.
		_ = s.signIns.Replace(ctx, c.Value)
	}
	http.SetCookie(w, cookie(cookieName, begun.Secret, int(begun.ExpiresAt.Sub(s.now()).Seconds())))
}

// Wrap lets a browser that is signed in call the API. A request that carries a credential of its own is left as it is.
func (s *Sessions) Wrap(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := r.Cookie(cookieName)
		if err != nil || c.Value == "" || r.Header.Get("Authorization") != "" || s.origin.Check(r) != nil {
			api.ServeHTTP(w, r)
			return
		}
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+c.Value)
		api.ServeHTTP(w, r)
	})
}

func cookie(name, value string, age int) *http.Cookie {
	return &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: age, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}

var errCrossSite = fault.New(fault.Denied, "cross_site", "this request comes from another site")

// refuse answers as the API does: a stable code, a message, a hint.
func refuse(w http.ResponseWriter, err error) {
	f := fault.Of(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status(f))
	writeFault(w, f)
}

func status(f *fault.Error) int {
	switch f.Kind {
	case fault.Invalid:
		return http.StatusBadRequest
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.Denied:
		return http.StatusForbidden
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Precondition, fault.Conflict, fault.Exists:
		return http.StatusConflict
	case fault.Exhausted:
		return http.StatusTooManyRequests
	case fault.Internal:
		return http.StatusInternalServerError
	}
	return http.StatusServiceUnavailable
}

func writeFault(w http.ResponseWriter, f *fault.Error) {
	message := f.Message
	if f.Kind == fault.Internal || errors.Is(f, context.Canceled) {
		message = "internal error"
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"code": f.Code, "message": message, "hint": f.Hint})
}
