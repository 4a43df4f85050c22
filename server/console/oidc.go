package console

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/loopbackd/loopback/fault"
)

// onTheWay is the cookie of a sign-in that went to a provider. It is Lax: the way back is a link from another site, and this
// cookie is all that shows that this browser began it.
const onTheWay = "__Host-loopback-oidc"

// Journeys are sign-ins that go to a provider and back.
type Journeys interface {
	// Leave is where the browser goes, and what it keeps. held is the sign-in that it has, back where in the console it
	// goes afterwards.
	Leave(ctx context.Context, providerID, back, held string) (to, kept string, err error)
	// LeaveInvited is the same for who comes by an invitation: its string goes along.
	LeaveInvited(ctx context.Context, providerID, invitation string) (to, kept string, err error)
	// Return begins a sign-in for who came back. back and held are there whenever the browser kept them.
	Return(ctx context.Context, providerID, kept, agent string, q url.Values) (b Begun, back, held string, err error)
}

// Providers serves the way to a provider (GET /oidc/begin?provider=ID&back=/hosts, or POST /oidc/begin with {"provider": "idp_…",
// "invitation": "lbi_…"}, whose answer has the "location") and back (GET /oidc/callback/ID).
//
// Other sites cannot begin a sign-in, nor finish one that this browser did not begin: what the browser kept is sealed,
// names state, nonce and provider, and is taken back at once. An error ends on the sign-in page, which says its code.
type Providers struct {
	Sessions *Sessions
	Journeys Journeys
	Patience int // seconds that a sign-in may be on its way
}

// Begin sends the browser to a provider.
func (p Providers) Begin(w http.ResponseWriter, r *http.Request) {
	quiet(w)
	// A link on another site must not sign anybody in: GET is no safe method here.
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		refuse(w, errCrossSite)
		return
	}
	held := ""
	if c, err := r.Cookie(cookieName); err == nil {
		held = c.Value
	}
	to, kept, err := p.Journeys.Leave(p.Sessions.anonymous(r), r.URL.Query().Get("provider"), r.URL.Query().Get("back"), held)
	if err != nil {
		failed(w, r, err)
		return
	}
	p.keep(w, kept)
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// BeginInvited tells the page where to send the browser: the string of an invitation belongs into no address.
func (p Providers) BeginInvited(w http.ResponseWriter, r *http.Request) {
	quiet(w)
	if err := p.Sessions.origin.Check(r); err != nil {
		refuse(w, errCrossSite)
		return
	}
	var in struct {
		Provider   string `json:"provider"`
		Invitation string `json:"invitation"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in); err != nil {
		refuse(w, fault.New(fault.Invalid, "body_invalid", "the body is not JSON with a provider and an invitation"))
		return
	}
	to, kept, err := p.Journeys.LeaveInvited(p.Sessions.anonymous(r), in.Provider, in.Invitation)
	if err != nil {
		refuse(w, err)
		return
	}
	p.keep(w, kept)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"location": to})
}

// keep gives the browser what it shows when it comes back.
func (p Providers) keep(w http.ResponseWriter, kept string) {
	c := cookie(onTheWay, kept, p.Patience)
	c.SameSite = http.SameSiteLaxMode
	http.SetCookie(w, c)
}

// Return takes in who comes back.
func (p Providers) Return(w http.ResponseWriter, r *http.Request) {
	quiet(w)
	kept := ""
	if c, err := r.Cookie(onTheWay); err == nil {
		kept = c.Value
	}
	gone := cookie(onTheWay, "", -1)
	gone.SameSite = http.SameSiteLaxMode
	http.SetCookie(w, gone)
	ctx := p.Sessions.anonymous(r)
	begun, back, held, err := p.Journeys.Return(ctx, r.PathValue("provider"), kept, r.UserAgent(), r.URL.Query())
	if err != nil {
		failed(w, r, err)
		return
	}
	if held != "" {
		_ = p.Sessions.signIns.Replace(ctx, held) // as in begin
	}
	http.SetCookie(w, cookie(cookieName, begun.Secret, int(begun.ExpiresAt.Sub(p.Sessions.now()).Seconds())))
	http.Redirect(w, r, back, http.StatusSeeOther)
}

func quiet(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer") // the address holds a code
}

// failed ends on the sign-in page. Only what we said ourselves is in its address.
func failed(w http.ResponseWriter, r *http.Request, err error) {
	f := fault.Of(err)
	http.Redirect(w, r, "/?sign-in="+url.QueryEscape(f.Code), http.StatusSeeOther)
}
