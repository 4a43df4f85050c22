// Package provider is where people sign in: an identity provider that speaks OpenID Connect, and how far it is trusted.
//
// Somebody is known by the provider's issuer and the subject that it gave them, never by an address or a name, which a
// provider may give to somebody else tomorrow. Who is not known yet becomes a user only where the provider may make users,
// and only with a verified address of a domain that was named, if any was. Groups of the provider can be mapped to groups of
// ours; membership in those is set anew at each sign-in, other groups are left alone.
//
// Whoever sets up a provider decides who signs in as whom. So it takes everything there is, over the whole deployment.
package provider

import (
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Use is in the audit log where a provider let somebody in.
const Use access.Permission = "providers.use"

// Permissions over providers.
const (
	Create access.Permission = "providers.create"
	Read   access.Permission = "providers.read"
	Update access.Permission = "providers.update" // and to link people and unlink them
	Delete access.Permission = "providers.delete"
)

// Provider is one OpenID Connect provider.
type Provider struct {
	tenant.Meta
	Issuer       string // URL, as the provider writes it itself
	ClientID     string
	Sealed       []byte   // the client's secret; empty: a public client
	CA           string   // PEM certificates of who signed the provider's; empty: the system's
	Scopes       []string // besides openid
	Disabled     bool
	Organisation string // where users that it makes belong; empty: the deployment
	CreateUsers  bool
	Domains      []string          // of addresses of those that it makes; empty: any, and none
	GroupsClaim  string            // of the ID token; empty: groups are left alone
	Groups       map[string]string // the provider's groups to ids of ours
	TrustMFA     bool              // its word counts for a second factor
	MFAValues    []string          // of amr or acr that say there was one; empty: DefaultMFAValues
}

// DefaultScopes are asked for unless others are named.
var DefaultScopes = []string{"profile", "email"}

// DefaultMFAValues say that there was a second factor (RFC 8176), or something that is as good.
var DefaultMFAValues = []string{"mfa", "hwk", "phr", "phrh"}

// Skew is by how much a provider's clock may differ from ours.
const Skew = time.Minute

// Bounds.
const (
	MaxDomains = 100
	MaxGroups  = 500
)

var domain = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]*[a-z0-9])?\.)+[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// Validate notes what is wrong.
func (p Provider) Validate(c *fault.Check) {
	tenant.CheckName(c, "name", p.Name)
	u, err := url.Parse(p.Issuer)
	c.That(err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" && len(p.Issuer) <= 500, "issuer", "is %q, not an https:// URL without a query", p.Issuer)
	c.That(p.ClientID != "" && len(p.ClientID) <= 500, "clientId", "is empty, or longer than 500 bytes")
	c.That(len(p.CA) <= 64<<10, "ca", "is %d bytes long; at most 65536 are allowed", len(p.CA))
	c.That(len(p.Scopes) <= 20, "scopes", "has %d entries; at most 20 are allowed", len(p.Scopes))
	for _, s := range p.Scopes {
		c.That(s != "" && len(s) <= 200 && !strings.ContainsAny(s, " \"\\"), "scopes", "has %q, which is no scope", s)
	}
	c.That(len(p.Domains) <= MaxDomains, "domains", "has %d entries; at most %d are allowed", len(p.Domains), MaxDomains)
	for _, d := range p.Domains {
		c.That(domain.MatchString(d), "domains", "has %q, not a domain in lower case like example.com", d)
	}
	c.That(len(p.Groups) <= MaxGroups, "groups", "has %d entries; at most %d are allowed", len(p.Groups), MaxGroups)
	c.That(len(p.Groups) == 0 || p.GroupsClaim != "", "groupsClaim", "is empty; name the claim that the groups are in")
	c.That(len(p.GroupsClaim) <= 200, "groupsClaim", "is longer than 200 bytes")
	for _, v := range p.MFAValues {
		c.That(v != "" && len(v) <= 200, "mfaValues", "has %q, which is no value of amr or acr", v)
	}
	c.That(len(p.MFAValues) <= 20, "mfaValues", "has %d entries; at most 20 are allowed", len(p.MFAValues))
}

// Identity is who somebody is at a provider. Its id follows from issuer and subject.
type Identity struct {
	tenant.Meta
	ProviderID string
	Issuer     string
	Subject    string
	UserID     string
	Email      string // as the provider said last; for people to recognise
	LastUsedAt time.Time
}

// Query selects providers, by name, or identities, newest first.
type Query struct {
	Readable access.Sight
	Provider string // of identities
	Page     tenant.Page
}

// Errors of signing in at a provider.
var (
	ErrState = fault.New(fault.Unauthenticated, "sign_in_state", "this is not the answer to a sign-in that this browser began, or it took too long").
			WithHint("begin again from the console's sign-in page, in one tab")
	ErrToken = fault.New(fault.Unauthenticated, "provider_token_invalid", "what the provider says of who you are cannot be believed").
			WithHint("if it goes on, an administrator finds the cause in loopbackd's log")
	ErrRefused = fault.New(fault.Unauthenticated, "provider_refused", "the provider did not let you in")
	ErrUnknown = fault.New(fault.Denied, "user_unknown", "you are known to the provider, but not here").
			WithHint("ask an administrator to link you: loopback provider link")
	ErrEmail = fault.New(fault.Denied, "email_unverified", "the provider does not vouch for your e-mail address, which is needed to let you in the first time").
			WithHint("verify it at the provider, or ask an administrator to link you")
	ErrDomain = fault.New(fault.Denied, "email_domain_denied", "people with your e-mail address are not let in by themselves").
			WithHint("ask an administrator")
	ErrGroups = fault.New(fault.Denied, "provider_groups_incomplete", "the provider did not say which groups you are in").
			WithHint("an administrator can have it put fewer groups in its token: only those that are mapped")
	ErrDisabled    = fault.New(fault.Denied, "provider_disabled", "signing in by this provider is switched off").WithHint("choose another way")
	ErrUnreachable = fault.New(fault.Unavailable, "provider_unreachable", "the identity provider does not answer as it should").
			WithHint("try again, or sign in by another way; an administrator finds the cause in loopbackd's log")
)
