package storage

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/query"
	"github.com/loopbackd/loopback/tenant"
)

// errTaken is what a broken rule of uniqueness becomes; nouns say it better where they can.
var errTaken = fault.New(fault.Exists, "already_exists", "it exists already")

// errHeld is what a broken foreign key becomes.
var errHeld = fault.New(fault.Precondition, "in_use", "something else still needs it, or what it needs does not exist")

// filter builds the conditions of a query.
type filter struct {
	conditions []string
	args       []any
}

// arg notes an argument and returns its mark.
func (f *filter) arg(v any) string {
	f.args = append(f.args, v)
	return fmt.Sprintf("$%d", len(f.args))
}

func (f *filter) and(condition string) { f.conditions = append(f.conditions, condition) }

// equal demands a value, unless it is empty.
func (f *filter) equal(column, value string) {
	if value != "" {
		f.and(column + " = " + f.arg(value))
	}
}

// among demands one of some values, unless there are none.
func among[S ~string](f *filter, column string, values []S) {
	if len(values) > 0 {
		f.and(f.in(column, asStrings(values)))
	}
}

func asStrings[S ~string](values []S) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}

func (f *filter) in(column string, values []string) string {
	marks := make([]string, len(values))
	for i, v := range values {
		marks[i] = f.arg(v)
	}
	return column + " IN (" + strings.Join(marks, ", ") + ")"
}

// expression is a filter as SQL. fields are columns by the names that people use; labels are rows of a table of their own.
func (f *filter) expression(e query.Expression, fields map[string]string, labels, owner string) string {
	each := func(all []query.Expression, word string) string {
		out := make([]string, len(all))
		for i, one := range all {
			out[i] = f.expression(one, fields, labels, owner)
		}
		return "(" + strings.Join(out, word) + ")"
	}
	switch e := e.(type) {
	case query.And:
		return each(e, " AND ")
	case query.Or:
		return each(e, " OR ")
	case query.Not:
		return "NOT " + f.expression(e.Expression, fields, labels, owner)
	case query.Term:
		if key, ok := strings.CutPrefix(e.Field, query.Label); ok {
			return "(id IN (SELECT " + owner + " FROM " + labels + " WHERE key = " + f.arg(key) + " AND " + f.compare("value", e) + "))"
		}
		if column, ok := fields[e.Field]; ok {
			return "(" + f.compare(column, e) + ")"
		}
	}
	return "(1 = 0)" // no field of that name: nothing has it
}

func (f *filter) compare(column string, t query.Term) string {
	if t.Operator == query.Contains {
		wanted := strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(query.Fold(t.Values[0]))
		return "LOWER(" + column + ") LIKE " + f.arg("%"+wanted+"%") + ` ESCAPE '\'`
	}
	return f.in(column, t.Values)
}

// where is the clause; empty without conditions.
func (f *filter) where() string {
	if len(f.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(f.conditions, " AND ")
}

// place is where a table keeps the scope of its rows. An empty column means that its rows lie above that level: only
// what is not narrowed to it contains them.
type place struct{ organisation, project, workspace string }

// anywhere is the place of rows that have the whole scope.
var anywhere = place{"organisation_id", "project_id", "workspace_id"}

// within demands that rows lie within a scope.
func (f *filter) within(p place, s access.Scope) {
	if s != (access.Scope{}) {
		f.and(f.contains(p, s))
	}
}

// readable demands that rows are in sight; the empty sight sees none. selected is how selected hosts are told from
// others, nil for all that are no hosts.
func (f *filter) readable(p place, sight access.Sight, selected func(label.Selector) string) {
	if slices.ContainsFunc(sight, func(c access.Clause) bool {
		return c.Scope == (access.Scope{}) && len(c.Hosts) == 0 && len(c.Except) == 0
	}) {
		return
	}
	// Most sights are many whole workspaces: they make one condition together.
	var workspaces []string
	var any []string
	for i, c := range sight {
		s := c.Scope
		switch {
		case len(c.Hosts) > 0 && selected == nil:
		case len(c.Hosts) > 0 || len(c.Except) > 0:
			any = append(any, f.clause(p, c, selected))
		case slices.ContainsFunc(sight[:i], func(o access.Clause) bool { return o.Scope == s && len(o.Hosts) == 0 && len(o.Except) == 0 }):
		case s.Organisation == "" && s.Project == "" && p.workspace != "":
			workspaces = append(workspaces, s.Workspace)
		default:
			any = append(any, f.contains(p, s))
		}
	}
	if len(workspaces) > 0 {
		any = append(any, f.in(p.workspace, workspaces))
	}
	if len(any) == 0 {
		f.and("1 = 0")
		return
	}
	f.and("(" + strings.Join(any, " OR ") + ")")
}

// clause is what a clause of a sight has, without what it excepts.
func (f *filter) clause(p place, c access.Clause, selected func(label.Selector) string) string {
	one := func(c access.Clause) string {
		text := f.contains(p, c.Scope)
		if len(c.Hosts) > 0 {
			text = "(" + text + " AND " + selected(c.Hosts) + ")"
		}
		return text
	}
	text := one(c)
	for _, e := range c.Except {
		if len(e.Hosts) == 0 || selected != nil {
			text += " AND NOT " + one(e)
		}
	}
	return "(" + text + ")"
}

func (f *filter) contains(p place, s access.Scope) string {
	var all []string
	for _, level := range []struct{ column, value string }{
		{p.workspace, s.Workspace}, {p.project, s.Project}, {p.organisation, s.Organisation},
	} {
		switch {
		case level.value == "":
		case level.column == "":
			return "1 = 0"
		default:
			all = append(all, level.column+" = "+f.arg(level.value))
		}
	}
	if len(all) == 0 {
		return "1 = 1"
	}
	return "(" + strings.Join(all, " AND ") + ")"
}

// keyset cuts a list into pages by the sort key and the id of the last item of each.
type keyset struct {
	column     string // sorted by this, then by id; empty: by id alone
	descending bool
	list       uint32 // tells apart lists that differ in more than the page
}

// cursor is a page token: where the page before ended.
type cursor struct {
	List uint32 `json:"l"`
	Text string `json:"t,omitempty"`
	Int  int64  `json:"n,omitempty"`
	ID   string `json:"i"`
}

// fingerprint tells one list from another.
func fingerprint(parts ...any) uint32 {
	h := fnv.New32a()
	for _, p := range parts {
		fmt.Fprintf(h, "%v\x00", p)
	}
	return h.Sum32()
}

var errPageToken = fault.New(fault.Invalid, "page_token_invalid", "the page token is not one of this list").
	WithHint("ask for the first page again, with the same filters for every page")

// after lets the list begin after the page that the token came with.
func (k keyset) after(f *filter, token string, isText bool) error {
	if token == "" {
		return nil
	}
	var c cursor
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || json.Unmarshal(b, &c) != nil || c.List != k.list || c.ID == "" {
		return errPageToken
	}
	beyond := ">"
	if k.descending {
		beyond = "<"
	}
	if k.column == "" {
		f.and("id " + beyond + " " + f.arg(c.ID))
		return nil
	}
	var key any = c.Int
	if isText {
		key = c.Text
	}
	f.and(fmt.Sprintf("(%s, id) %s (%s, %s)", k.column, beyond, f.arg(key), f.arg(c.ID)))
	return nil
}

// order is the rest of the query: one row more than the page, which tells whether there is another.
func (k keyset) order(f *filter, p tenant.Page) string {
	direction := ""
	if k.descending {
		direction = " DESC"
	}
	by := "id" + direction
	if k.column != "" {
		by = k.column + direction + ", " + by
	}
	return fmt.Sprintf(" ORDER BY %s LIMIT %s", by, f.arg(p.Limit()+1))
}

// cut takes the additional row off, and makes the token of the next page where there was one.
func cut[T any](k keyset, p tenant.Page, list []T, key func(T) (any, string)) (page []T, next string) {
	if len(list) <= p.Limit() {
		return list, ""
	}
	list = list[:p.Limit()]
	c := cursor{List: k.list}
	last, id := key(list[len(list)-1])
	switch v := last.(type) {
	case string:
		c.Text = v
	case int64:
		c.Int = v
	}
	c.ID = id
	b, _ := json.Marshal(c) // strings and numbers
	return list, base64.RawURLEncoding.EncodeToString(b)
}
