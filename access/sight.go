package access

import (
	"slices"

	"github.com/loopbackd/loopback/label"
)

// Sight is what somebody may see of one kind of thing: what lies in one of its clauses. The empty sight sees nothing.
type Sight []Clause

// Clause is a scope, or selected hosts of it, without what is excepted.
type Clause struct {
	Scope
	Hosts  label.Selector // where it is set, only hosts that it matches, and nothing else
	Except []Clause       // their own Except is not looked at
}

// Everywhere sees all there is.
func Everywhere() Sight { return Sight{{}} }

// Over is the sight of whole scopes.
func Over(scopes ...Scope) Sight {
	out := make(Sight, len(scopes))
	for i, s := range scopes {
		out[i].Scope = s
	}
	return out
}

// Sees tells whether what lies at the scope is in sight. It is for all but hosts.
func (s Sight) Sees(at Scope) bool {
	return slices.ContainsFunc(s, func(c Clause) bool { return c.Sees(at) })
}

// SeesHost tells whether a host is in sight.
func (s Sight) SeesHost(at Scope, labels label.Set) bool {
	return slices.ContainsFunc(s, func(c Clause) bool {
		return c.Contains(at) && c.Hosts.Matches(labels) && !slices.ContainsFunc(c.Except, func(e Clause) bool {
			return e.Contains(at) && e.Hosts.Matches(labels)
		})
	})
}

// Sees tells whether the clause has what lies at the scope, hosts apart.
func (c Clause) Sees(at Scope) bool {
	return len(c.Hosts) == 0 && c.Contains(at) && !slices.ContainsFunc(c.Except, func(e Clause) bool {
		return len(e.Hosts) == 0 && e.Contains(at)
	})
}

// Within is what of the sight lies in a scope: what may name the scope as the frame of a list.
func (s Sight) Within(frame Scope) bool {
	return slices.ContainsFunc(s, func(c Clause) bool {
		_, ok := c.Intersect(frame)
		return ok
	})
}

// Equal tells whether two sights are written alike.
func (s Sight) Equal(o Sight) bool {
	return slices.EqualFunc(s, o, func(a, b Clause) bool {
		return a.Scope == b.Scope && a.Hosts.String() == b.Hosts.String() && Sight(a.Except).Equal(b.Except)
	})
}
