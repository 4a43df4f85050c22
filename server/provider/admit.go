package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/provider"
	"github.com/loopbackd/loopback/tenant"
)

// admit is the user whom a provider speaks of: who is linked, or one that is made now. Groups that the provider has a say in
// are set as it says, in the same transaction.
func (s *Service) admit(ctx context.Context, p provider.Provider, c said) (user string, err error) {
	now := s.options.Now()
	who := speaker(ctx, p)
	err = s.store.Write(ctx, func(tx Tx) error {
		i, err := tx.Identity(ctx, identity(p, c.Subject, now).ID)
		var u principal.Principal
		switch {
		case fault.KindOf(err) == fault.NotFound:
			if u, err = newcomer(ctx, tx, p, c); err != nil {
				return err
			}
			u.ID, u.CreatedAt = id.New("usr", now), now
			if u, err = tx.PutPrincipal(ctx, u); err != nil {
				return err
			}
			if err := tx.Audit(ctx, audit.Of(who, principal.UsersCreate, u.Scope, u.ID, u.Name).Change(nil, map[string]any{
				"name": u.Name, "email": u.Email, "provider": p.ID, "subject": c.Subject})); err != nil {
				return err
			}
			i = identity(p, c.Subject, now)
			i.UserID = u.ID
		case err != nil:
			return err
		default:
			u, err = tx.Principal(ctx, i.UserID)
			if fault.KindOf(err) == fault.NotFound || err == nil && !u.Active() {
				user = i.UserID
				return nil // who begins the sign-in finds that, and says so
			}
			if err != nil {
				return err
			}
		}
		i.Email, i.LastUsedAt = "", now
		if c.Verified {
			i.Email = c.Email
		}
		if _, err := tx.PutIdentity(ctx, i); err != nil {
			return err
		}
		user = u.ID
		if err := regroup(ctx, tx, who, p, c, u); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(who, provider.Use, u.Scope, u.ID, u.Name).Change(nil, describeSaid(p, c)))
	})
	return user, err
}

// speaker is a provider as who acts.
func speaker(ctx context.Context, p provider.Provider) access.Actor {
	caller := access.ActorFrom(ctx)
	return access.Actor{Kind: access.System, ID: p.ID, Name: "provider " + p.Name, Address: caller.Address, RequestID: caller.RequestID}
}

func describeSaid(p provider.Provider, c said) map[string]any {
	return map[string]any{"provider": p.ID, "subject": c.Subject, "acr": c.ACR, "amr": json.RawMessage(orNull(c.AMR)), "authTime": c.AuthTime}
}

func orNull(b json.RawMessage) []byte {
	if len(b) == 0 {
		return []byte("null")
	}
	return b
}

// newcomer is the user that is made of whom nobody knows yet, if the provider may make one.
func newcomer(ctx context.Context, tx Tx, p provider.Provider, c said) (principal.Principal, error) {
	if !p.CreateUsers {
		return principal.Principal{}, provider.ErrUnknown
	}
	var check fault.Check
	principal.CheckEmail(&check, "email", c.Email)
	verified := bool(c.Verified) && c.Email != "" && check.Err("", "") == nil
	if len(p.Domains) > 0 {
		if !verified {
			return principal.Principal{}, provider.ErrEmail
		}
		if !slices.Contains(p.Domains, strings.ToLower(c.Email[strings.LastIndexByte(c.Email, '@')+1:])) {
			return principal.Principal{}, provider.ErrDomain
		}
	}
	u := principal.Principal{Kind: access.User, Scope: access.Scope{Organisation: p.Organisation}, Description: "made by provider " + p.Name}
	if verified {
		u.Email = c.Email
	}
	base := named(c, verified)
	for n := 1; n <= 1000; n++ {
		u.Name = base
		if n > 1 {
			u.Name = fmt.Sprintf("%s-%d", base, n)
		}
		// A name that is taken is somebody else's: nobody is known by it.
		taken, _, err := tx.Principals(ctx, principal.Query{Readable: access.Everywhere(), Kind: access.User, Name: u.Name, Page: tenant.Page{Size: 1}})
		if err != nil || len(taken) == 0 {
			return u, err
		}
	}
	return u, fault.New(fault.Exhausted, "user_name_taken", "there are a thousand users called %s already", base)
}

var unfit = regexp.MustCompile(`[^a-z0-9]+`)

// named is a user's name as ours are, after what the provider calls them.
func named(c said, verified bool) string {
	for _, from := range []string{c.Name, c.Email, "user"} {
		if from == c.Email && !verified {
			continue
		}
		local, _, _ := strings.Cut(strings.ToLower(from), "@")
		name := strings.Trim(unfit.ReplaceAllString(local, "-"), "-")
		if len(name) > 56 { // leaves room for a number
			name = strings.Trim(name[:56], "-")
		}
		if name != "" {
			return name
		}
	}
	return "user"
}

// regroup sets a user's membership in the groups that the provider has a say in.
func regroup(ctx context.Context, tx Tx, who access.Actor, p provider.Provider, c said, u principal.Principal) error {
	if p.GroupsClaim == "" || len(p.Groups) == 0 {
		return nil
	}
	in := map[string]bool{} // by id of our groups
	for _, theirs := range slices.Sorted(maps.Keys(p.Groups)) {
		ours := p.Groups[theirs]
		in[ours] = in[ours] || slices.Contains(c.groups, theirs)
	}
	owners, err := tx.Owners(ctx)
	if err != nil {
		return err
	}
	changed := false
	for _, ours := range slices.Sorted(maps.Keys(in)) {
		g, err := tx.Group(ctx, ours)
		if fault.KindOf(err) == fault.NotFound {
			continue // it was deleted; the mapping outlived it
		}
		if err != nil {
			return err
		}
		if o := u.Scope.Organisation; o != "" && o != g.Scope.Organisation {
			continue // groups have users of their own organisation, or of the deployment
		}
		if slices.Contains(g.Members, u.ID) == in[ours] {
			continue
		}
		before := slices.Clone(g.Members)
		if in[ours] {
			if len(g.Members) >= principal.MaxMembers {
				return fault.New(fault.Exhausted, "group_full", "a group has at most %d members", principal.MaxMembers)
			}
			g.Members = append(slices.Clone(g.Members), u.ID)
			slices.Sort(g.Members)
		} else {
			g.Members = slices.DeleteFunc(slices.Clone(g.Members), func(m string) bool { return m == u.ID })
		}
		if _, err := tx.PutGroup(ctx, g); err != nil {
			return err
		}
		changed = true
		if err := tx.Audit(ctx, audit.Of(who, principal.GroupsUpdate, g.Scope, g.ID, g.Name).Change(map[string]any{"members": before}, map[string]any{"members": g.Members})); err != nil {
			return err
		}
	}
	if !changed || len(owners) == 0 {
		return nil
	}
	after, err := tx.Owners(ctx)
	if err == nil && len(after) == 0 {
		return errLastOwner
	}
	return err
}
