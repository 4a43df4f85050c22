package principal

import (
	"context"
	"slices"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/tenant"
)

// CreateGroup makes a group without members.
func (s *Service) CreateGroup(ctx context.Context, n New) (principal.Group, error) {
	at, err := s.place(ctx, n.Organisation, principal.GroupsCreate)
	if err == nil {
		err = n.check(access.Group)
	}
	if err != nil {
		return principal.Group{}, err
	}
	now := s.now()
	out := principal.Group{Meta: tenant.Meta{ID: id.New("grp", now), Name: n.Name, Labels: n.Labels, CreatedAt: now}, Scope: at, Description: n.Description}
	err = s.store.Write(ctx, func(tx Tx) error {
		taken, _, err := tx.Groups(ctx, principal.Query{Readable: access.Over(at), Within: at, Name: n.Name, Page: tenant.Page{Size: tenant.MaxPage}})
		if err == nil {
			err = free(taken, at, func(g principal.Group) access.Scope { return g.Scope }, access.Group, n.Name)
		}
		if err != nil {
			return err
		}
		if out, err = tx.PutGroup(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), principal.GroupsCreate, at, out.ID, out.Name).Change(nil, describeGroup(out)))
	})
	return out, err
}

// GetGroup is one by id or name.
func (s *Service) GetGroup(ctx context.Context, ref string) (principal.Group, error) {
	return s.findGroup(ctx, ref, principal.GroupsRead)
}

func (s *Service) findGroup(ctx context.Context, ref string, p access.Permission) (principal.Group, error) {
	actor := access.ActorFrom(ctx)
	if err := named(access.Group, ref); err != nil {
		return principal.Group{}, err
	}
	if id.Valid("grp", ref) {
		g, err := s.store.View().Group(ctx, ref)
		if err != nil {
			return principal.Group{}, err
		}
		return g, actor.Require(p, g.Scope, principal.GroupsRead, "group "+ref)
	}
	found, _, err := s.store.View().Groups(ctx, principal.Query{
		Readable: append(actor.Readable(p), actor.Readable(principal.GroupsRead)...), Name: ref, Page: tenant.Page{Size: 2},
	})
	if err != nil {
		return principal.Group{}, err
	}
	g, err := only(found, access.Group, ref, func(g principal.Group) string { return g.ID })
	if err != nil {
		return principal.Group{}, err
	}
	return g, actor.Require(p, g.Scope, principal.GroupsRead, "group "+ref)
}

// Groups are those that the caller may read, by name. organisation may be empty.
func (s *Service) Groups(ctx context.Context, organisation string, page tenant.Page) ([]principal.Group, string, error) {
	q, err := s.query(ctx, access.Group, organisation, page)
	if err != nil {
		return nil, "", err
	}
	return s.store.View().Groups(ctx, q)
}

// Join puts users into a group; Leave takes them out. Users who are there already, or are not, change nothing.
func (s *Service) Join(ctx context.Context, group string, users []string) (principal.Group, error) {
	return s.change(ctx, group, users, true)
}

// Leave takes users out of a group.
func (s *Service) Leave(ctx context.Context, group string, users []string) (principal.Group, error) {
	return s.change(ctx, group, users, false)
}

func (s *Service) change(ctx context.Context, ref string, refs []string, join bool) (principal.Group, error) {
	found, err := s.findGroup(ctx, ref, principal.GroupsUpdate)
	if err != nil {
		return principal.Group{}, err
	}
	if len(refs) == 0 {
		var c fault.Check
		c.Add("users", "is empty; name at least one")
		return principal.Group{}, c.Err("request_invalid", "the request is not valid")
	}
	var users []string
	for _, r := range refs {
		u, err := s.Get(ctx, access.User, r)
		if err != nil {
			return principal.Group{}, err
		}
		if o := found.Scope.Organisation; u.Scope.Organisation != "" && u.Scope.Organisation != o {
			return principal.Group{}, fault.New(fault.Precondition, "user_elsewhere", "user %s belongs to another organisation than the group", r).
				WithHint("groups have users of their own organisation, or of the deployment")
		}
		users = append(users, u.ID)
	}
	actor := access.ActorFrom(ctx)
	var out principal.Group
	err = s.store.Write(ctx, func(tx Tx) error {
		before, err := tx.Group(ctx, found.ID)
		if err != nil {
			return err
		}
		if err := actor.Require(principal.GroupsUpdate, before.Scope, principal.GroupsRead, "group "+ref); err != nil {
			return err
		}
		// Joining gives what the group was given, leaving gives back what it was denied.
		if err := covers(ctx, tx, before.Subject(), !join); err != nil {
			return err
		}
		out = before
		out.Members = slices.DeleteFunc(slices.Clone(before.Members), func(m string) bool { return slices.Contains(users, m) })
		if join {
			for _, u := range users { // they may have been deleted since
				if _, err := tx.Principal(ctx, u); err != nil {
					return err
				}
			}
			out.Members = append(out.Members, users...)
			slices.Sort(out.Members)
			out.Members = slices.Compact(out.Members)
		}
		if len(out.Members) > principal.MaxMembers {
			return fault.New(fault.Exhausted, "group_full", "a group has at most %d members", principal.MaxMembers)
		}
		if slices.Equal(out.Members, before.Members) {
			return nil
		}
		return owned(ctx, tx, func() error {
			if out, err = tx.PutGroup(ctx, out); err != nil {
				return err
			}
			return tx.Audit(ctx, audit.Of(actor, principal.GroupsUpdate, out.Scope, out.ID, out.Name).Change(describeGroup(before), describeGroup(out)))
		})
	})
	return out, err
}

// DeleteGroup deletes a group with its bindings.
func (s *Service) DeleteGroup(ctx context.Context, ref string) error {
	found, err := s.findGroup(ctx, ref, principal.GroupsDelete)
	if err != nil {
		return err
	}
	actor := access.ActorFrom(ctx)
	return s.store.Write(ctx, func(tx Tx) error {
		before, err := tx.Group(ctx, found.ID)
		if err != nil {
			return err
		}
		if err := actor.Require(principal.GroupsDelete, before.Scope, principal.GroupsRead, "group "+ref); err != nil {
			return err
		}
		if err := covers(ctx, tx, before.Subject(), true); err != nil { // denials end with it
			return err
		}
		return owned(ctx, tx, func() error {
			var gone ended
			if gone.Bindings, err = unbind(ctx, tx, before.ID); err != nil {
				return err
			}
			if err := tx.DeleteGroup(ctx, before); err != nil {
				return err
			}
			return tx.Audit(ctx, audit.Of(actor, principal.GroupsDelete, before.Scope, before.ID, before.Name).Change(describeGroup(before), gone))
		})
	})
}

type groupRecord struct {
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Labels      label.Set `json:"labels,omitempty"`
	Members     []string  `json:"members"`
}

func describeGroup(g principal.Group) groupRecord {
	return groupRecord{g.Name, g.Description, g.Labels, g.Members}
}
