package apikey

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/invitation"
	"github.com/loopbackd/loopback/passkey"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/tenant"
)

// Administrator is the name of the first key unless another is asked for.
const Administrator = "administrator"

// issueCode is in the audit log when a start makes a new code.
const issueCode access.Permission = "bootstrap.issue"

const codeSize = 20 // bytes

// EnsureBootstrap makes a bootstrap code where no owner of the deployment has a live key for everything, and is not
// needed otherwise. Only its hash is kept: a code that was lost is replaced by the next start.
func (s *Service) EnsureBootstrap(ctx context.Context) (code string, needed bool, err error) {
	raw := make([]byte, codeSize)
	rand.Read(raw)
	code = grouped(id.Encoding.EncodeToString(raw))
	actor := access.Actor{Kind: access.System, Name: "start"}
	err = s.store.Write(ctx, func(tx Tx) error {
		needed = false
		d, err := tx.Deployment(ctx)
		if err != nil {
			return err
		}
		administered, err := s.administered(ctx, tx)
		if err != nil {
			return err
		}
		if administered {
			if len(d.BootstrapHash) == 0 {
				return nil
			}
			d.BootstrapHash = nil // it dies when there is an administrator
		} else {
			needed = true
			d.BootstrapHash, d.BootstrapUsedAt = s.hash(plain(code)), time.Time{}
		}
		if err := tx.PutDeployment(ctx, d); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, issueCode, access.Scope{}, d.ID, "").Change(nil, struct {
			Issued bool `json:"issued"`
		}{needed}))
	})
	if err != nil || !needed {
		return "", false, err
	}
	return code, true, nil
}

// administered tells whether some owner of the deployment has a passkey, or a live key for everything.
func (s *Service) administered(ctx context.Context, r Tx) (bool, error) {
	owners, err := r.Owners(ctx)
	if err != nil {
		return false, err
	}
	for _, o := range owners {
		shown, _, err := r.Passkeys(ctx, passkey.Query{Readable: access.Everywhere(), User: o, Page: tenant.Page{Size: tenant.MaxPage}})
		if err != nil {
			return false, err
		}
		// One of another domain opens nothing here.
		if slices.ContainsFunc(shown, func(p passkey.Passkey) bool { return p.Domain == s.options.Domain }) {
			return true, nil
		}
	}
	q := apikey.Query{Readable: access.Everywhere(), Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		keys, next, err := r.Keys(ctx, q)
		if err != nil {
			return false, err
		}
		for _, k := range keys {
			if k.Scope == (access.Scope{}) && slices.Contains(k.Permissions, access.All) && k.Live(s.options.Now()) &&
				(slices.Contains(owners, k.OwnerID) || s.options.Policy == nil && k.OwnerID == "") {
				return true, nil
			}
		}
		if next == "" {
			return false, nil
		}
		q.Page.Token = next
	}
}

// Redeem trades the code for the key of an owner, whom it makes. It works once, and only while no owner has such a key.
func (s *Service) Redeem(ctx context.Context, code, name string) (apikey.Key, string, error) {
	name = cmp.Or(name, Administrator)
	k, text := s.make(name, 0)
	k.Permissions, k.CreatedBy = []access.Permission{access.All}, "bootstrap"
	err := s.redeem(ctx, code, name, func(tx Tx, owner principal.Principal) (err error) {
		k.OwnerID = owner.ID
		if k, err = tx.PutKey(ctx, k); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), access.BootstrapRedeem, k.Scope, k.ID, k.Name).Change(nil, describe(k)))
	})
	if err != nil {
		return apikey.Key{}, "", err
	}
	return k, text, nil
}

// RedeemForInvitation trades the code for an invitation of an owner, whom it makes: they come in with a passkey. It works as Redeem
// does. Where the invitation is lost, the next start of loopbackd makes a new code, for no owner has a way in then.
func (s *Service) RedeemForInvitation(ctx context.Context, code, name string) (string, error) {
	now := s.options.Now()
	i := invitation.Invitation{Meta: tenant.Meta{ID: id.New("inv", now), CreatedAt: now}, CreatedBy: "bootstrap", ExpiresAt: now.Add(invitation.BootstrapTTL)}
	text := invitation.NewSecret(i.ID)
	i.Hash = s.hash(text)
	err := s.redeem(ctx, code, cmp.Or(name, Administrator), func(tx Tx, owner principal.Principal) (err error) {
		i.UserID, i.Name, i.Scope = owner.ID, owner.Name, owner.Scope
		if i, err = tx.PutInvitation(ctx, i); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), access.BootstrapRedeem, i.Scope, i.ID, i.Name).Change(nil, struct {
			User      string    `json:"user"`
			ExpiresAt time.Time `json:"expiresAt"`
		}{i.UserID, i.ExpiresAt}))
	})
	if err != nil {
		return "", err
	}
	return text, nil
}

// redeem spends the code, makes an owner, and gives them a way in, in one transaction.
func (s *Service) redeem(ctx context.Context, code, name string, give func(Tx, principal.Principal) error) error {
	var c fault.Check
	tenant.CheckName(&c, "name", name)
	c.That(code != "", "code", "is missing: loopbackd prints it at first start")
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return err
	}
	err := s.store.Write(ctx, func(tx Tx) error {
		d, err := tx.Deployment(ctx)
		if err != nil {
			return err
		}
		if len(d.BootstrapHash) == 0 || !hmac.Equal(d.BootstrapHash, s.hash(plain(code))) {
			return apikey.ErrCode
		}
		administered, err := s.administered(ctx, tx)
		if err != nil {
			return err
		}
		if administered {
			return apikey.ErrCode
		}
		d.BootstrapHash, d.BootstrapUsedAt = nil, s.options.Now()
		if err := tx.PutDeployment(ctx, d); err != nil {
			return err
		}
		owner, err := s.owner(ctx, tx, name)
		if err != nil {
			return err
		}
		return give(tx, owner)
	})
	if err != nil && fault.Of(err).Code == apikey.ErrCode.Code {
		from, _ := netip.ParseAddr(access.ActorFrom(ctx).Address)
		return s.refused(ctx, "bootstrap", from, apikey.ErrCode)
	}
	return err
}

// owner is a user of the deployment of this name, made an owner; one who is there already is enabled.
func (s *Service) owner(ctx context.Context, tx Tx, name string) (principal.Principal, error) {
	now := s.options.Now()
	found, _, err := tx.Principals(ctx, principal.Query{Readable: access.Everywhere(), Kind: access.User, Name: name, Page: tenant.Page{Size: tenant.MaxPage}})
	if err != nil {
		return principal.Principal{}, err
	}
	u := principal.Principal{Meta: tenant.Meta{ID: id.New("usr", now), Name: name, CreatedAt: now}, Kind: access.User, Description: "made by the bootstrap code"}
	for _, f := range found {
		if f.Scope == (access.Scope{}) {
			u = f
		}
	}
	u.DisabledAt = time.Time{}
	if u, err = tx.PutPrincipal(ctx, u); err != nil {
		return u, err
	}
	owners, err := tx.Owners(ctx)
	if err != nil || slices.Contains(owners, u.ID) {
		return u, err
	}
	_, err = tx.PutBinding(ctx, policy.Binding{Meta: tenant.Meta{ID: id.New("bnd", now), CreatedAt: now}, Subject: u.Subject(), RoleID: policy.Owner,
		Description: "made by the bootstrap code", CreatedBy: "bootstrap"})
	return u, err
}

// grouped is a code as it is printed: "abcd-efgh-…". plain is what is compared, however it was typed.
func grouped(s string) string {
	var parts []string
	for len(s) > 0 {
		n := min(4, len(s))
		parts, s = append(parts, s[:n]), s[n:]
	}
	return strings.Join(parts, "-")
}

func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		default:
			return -1
		}
	}, s)
}
