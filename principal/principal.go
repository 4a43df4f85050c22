// Package principal is who acts: users, who are people; service accounts, which are machines; and groups of users.
//
// Each belongs to the whole deployment or to one organisation, and is seen by who may read there. What they may do is
// written in bindings (package policy). A principal that is disabled keeps its bindings and may do nothing; one that is
// deleted takes its bindings, memberships and API keys along.
package principal

import (
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over users, groups and service accounts.
const (
	UsersCreate           access.Permission = "users.create"
	UsersRead             access.Permission = "users.read"
	UsersUpdate           access.Permission = "users.update"
	UsersDelete           access.Permission = "users.delete"
	GroupsCreate          access.Permission = "groups.create"
	GroupsRead            access.Permission = "groups.read"
	GroupsUpdate          access.Permission = "groups.update"
	GroupsDelete          access.Permission = "groups.delete"
	ServiceAccountsCreate access.Permission = "service_accounts.create"
	ServiceAccountsRead   access.Permission = "service_accounts.read"
	ServiceAccountsUpdate access.Permission = "service_accounts.update"
	ServiceAccountsDelete access.Permission = "service_accounts.delete"
)

// Principal is a user or a service account.
type Principal struct {
	tenant.Meta
	Scope       access.Scope // the deployment or an organisation
	Kind        access.SubjectKind
	Email       string // of a user; empty where it is not known
	Identity    string // of a user: the person as a provider of identities knows them, the same for all accounts of theirs; empty where it is not known
	Description string
	DisabledAt  time.Time
}

// Prefix of the ids of a kind of subject.
func Prefix(k access.SubjectKind) string {
	switch k {
	case access.User:
		return "usr"
	case access.Group:
		return "grp"
	default:
		return "sa"
	}
}

// Kind is the kind of subject that an id is of; empty where it is none.
func Kind(id string) access.SubjectKind {
	for _, k := range []access.SubjectKind{access.User, access.Group, access.ServiceAccount} {
		if strings.HasPrefix(id, Prefix(k)+"_") {
			return k
		}
	}
	return ""
}

// Word is what people call a kind of subject.
func Word(k access.SubjectKind) string { return strings.ReplaceAll(string(k), "_", " ") }

// Active tells whether it may do anything.
func (p Principal) Active() bool { return p.DisabledAt.IsZero() }

// SamePerson tells whether two accounts are one person's, as far as is known.
func SamePerson(a, b Principal) bool {
	return a.ID == b.ID || a.Identity != "" && a.Identity == b.Identity || a.Email != "" && strings.EqualFold(a.Email, b.Email)
}

// Subject of rules.
func (p Principal) Subject() access.Subject { return access.Subject{Kind: p.Kind, ID: p.ID} }

// MaxMembers is how many users a group can have.
const MaxMembers = 10_000

// Group is users who get the same bindings.
type Group struct {
	tenant.Meta
	Scope       access.Scope
	Description string
	Members     []string // ids of users
}

// Subject of rules.
func (g Group) Subject() access.Subject { return access.Subject{Kind: access.Group, ID: g.ID} }

// MaxIdentity is how long an identity can be, in bytes.
const MaxIdentity = 512

// CheckEmail demands that an address could be one. Whether mail arrives there is not found out.
func CheckEmail(c *fault.Check, field, email string) {
	at := strings.LastIndexByte(email, '@')
	c.That(email == "" || at > 0 && at < len(email)-1 && len(email) <= 254 && !strings.ContainsAny(email, " \t\r\n<>\""), field, "is not an e-mail address")
}

// Query selects principals or groups, by name.
type Query struct {
	Readable access.Sight // only what is in this sight; the empty one sees nothing
	Within   access.Scope
	Kind     access.SubjectKind // of principals; empty: any
	Name     string             // exactly; empty: any
	Page     tenant.Page
}
