package storage

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/tenant"
)

// column binds one column of a table to the field that it is read into and written from.
type column struct {
	name  string
	field any // pointer to a basic type, or a Scanner and Valuer
}

// table is how rows of one kind are read and written. The first column is the primary key.
type table[T any] struct {
	name    string
	bind    func(*T) []column
	columns string // comma-separated
	upsert  string
	insert  string
	rows    [4]string // INSERT of 1, 4, 16 and 64 rows
	width   int       // columns of a row
}

func newTable[T any](name string, bind func(*T) []column) *table[T] {
	columns := bind(new(T))
	names, marks, sets := make([]string, len(columns)), make([]string, len(columns)), []string(nil)
	for i, c := range columns {
		names[i], marks[i] = c.name, fmt.Sprintf("$%d", i+1)
		if i > 0 {
			sets = append(sets, c.name+" = excluded."+c.name)
		}
	}
	t := &table[T]{name: name, bind: bind, columns: strings.Join(names, ", "), width: len(columns)}
	t.insert = fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", name, t.columns, strings.Join(marks, ", "))
	var text strings.Builder
	text.WriteString(t.insert)
	for i, rows := 1, 0; ; i++ {
		if i == 1<<(2*rows) {
			if t.rows[rows] = text.String(); rows == len(t.rows)-1 {
				break
			}
			rows++
		}
		for c := range t.width {
			fmt.Fprintf(&text, "%s$%d", []string{", (", ", "}[min(c, 1)], i*t.width+c+1)
		}
		text.WriteByte(')')
	}
	t.upsert = fmt.Sprintf("%s ON CONFLICT (%s) DO UPDATE SET %s", t.insert, names[0], strings.Join(sets, ", "))
	return t
}

// list reads the rows that the rest of a SELECT (WHERE, ORDER BY, LIMIT) selects.
func (t *table[T]) list(ctx context.Context, s session, rest string, args ...any) ([]T, error) {
	rows, err := s.query(ctx, "SELECT "+t.columns+" FROM "+t.name+" "+rest, args...)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", t.name, err)
	}
	defer rows.Close()
	var out []T
	var targets []any
	for rows.Next() {
		var v T
		targets = targets[:0]
		for _, c := range t.bind(&v) {
			targets = append(targets, c.field)
		}
		if err := rows.Scan(targets...); err != nil {
			return nil, fmt.Errorf("reading %s: %w", t.name, s.explain(err))
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", t.name, s.explain(err))
	}
	return out, nil
}

// one reads a single row; what names it in the NotFound error.
func (t *table[T]) one(ctx context.Context, s session, what, where string, args ...any) (T, error) {
	found, err := t.list(ctx, s, "WHERE "+where, args...)
	if err == nil && len(found) == 0 {
		err = access.NotFound(what)
	}
	if err != nil {
		return *new(T), err
	}
	return found[0], nil
}

// of reads the rows of these ids, in no order; ids that there are none of are passed over. There are few texts, so that they
// can stay prepared: what a text has room for beyond the ids is filled with the last of them.
func (t *table[T]) of(ctx context.Context, s session, ids []string) ([]T, error) {
	var out []T
	for len(ids) > 0 {
		room := 1
		for room < min(len(ids), idsAtOnce) {
			room *= 4
		}
		n := min(room, len(ids))
		marks, args := make([]string, room), make([]any, room)
		for i := range room {
			marks[i], args[i] = "$"+strconv.Itoa(i+1), ids[min(i, n-1)]
		}
		rows, err := t.list(ctx, s, "WHERE id IN ("+strings.Join(marks, ", ")+")", args...)
		if err != nil {
			return nil, err
		}
		out, ids = append(out, rows...), ids[n:]
	}
	return out, nil
}

// idsAtOnce is a power of four.
const idsAtOnce = 1024

func (t *table[T]) values(v *T) ([]any, error) {
	columns := t.bind(v)
	args := make([]any, len(columns))
	for i, c := range columns {
		var err error
		if args[i], err = driver.DefaultParameterConverter.ConvertValue(c.field); err != nil {
			return nil, fmt.Errorf("column %s of %s: %w", c.name, t.name, err)
		}
		if text, ok := args[i].(string); ok {
			args[i] = storable(text)
		}
	}
	return args, nil
}

// storable is text without what PostgreSQL refuses to store: hosts have a say in some of it, and an odd character must
// not keep the rest of what they report from being kept.
func storable(text string) string {
	if strings.IndexByte(text, 0) >= 0 {
		text = strings.ReplaceAll(text, "\x00", "\uFFFD")
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// put inserts the row, or replaces the one of the same key.
func (t *table[T]) put(ctx context.Context, s session, v *T) error {
	return t.write(ctx, s, t.upsert, v)
}

// add inserts the row.
func (t *table[T]) add(ctx context.Context, s session, v *T) error {
	return t.write(ctx, s, t.insert, v)
}

func (t *table[T]) write(ctx context.Context, s session, text string, v *T) error {
	args, err := t.values(v)
	if err == nil {
		err = s.exec(ctx, text, args...)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", t.name, err)
	}
	return nil
}

// statement is a text with its arguments.
type statement struct {
	text string
	args []any
}

// inserts are statements that insert rows, many to a statement. There are few texts, so that they can stay prepared.
func (t *table[T]) inserts(rows []T) ([]statement, error) {
	var out []statement
	for len(rows) > 0 {
		size, n := 0, 1
		for size+1 < len(t.rows) && n*4 <= len(rows) {
			size, n = size+1, n*4
		}
		s := statement{text: t.rows[size], args: make([]any, 0, n*t.width)}
		for i := range n {
			args, err := t.values(&rows[i])
			if err != nil {
				return nil, err
			}
			s.args = append(s.args, args...)
		}
		out, rows = append(out, s), rows[n:]
	}
	return out, nil
}

// metaColumns are the columns that every resource begins with.
func metaColumns(m *tenant.Meta) []column {
	return []column{
		{"id", &m.ID}, {"name", &m.Name}, {"labels", document{&m.Labels}},
		{"created_at", moment{&m.CreatedAt}}, {"updated_at", moment{&m.UpdatedAt}}, {"revision", &m.Revision},
	}
}

func scopeColumns(s *access.Scope) []column {
	return []column{{"organisation_id", &s.Organisation}, {"project_id", &s.Project}, {"workspace_id", &s.Workspace}}
}

// moment stores a time as microseconds since 1970; the zero time is 0.
type moment struct{ at *time.Time }

func (m moment) Value() (driver.Value, error) { return micros(*m.at), nil }

func (m moment) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a time is stored as %T, not as an integer", v)
	}
	*m.at = fromMicros(n)
	return nil
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// span stores a length of time in microseconds.
type span struct{ d *time.Duration }

func (s span) Value() (driver.Value, error) { return s.d.Microseconds(), nil }

func (s span) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a length of time is stored as %T, not as an integer", v)
	}
	*s.d = time.Duration(n) * time.Microsecond
	return nil
}

// document stores a value as JSON; in points to it.
type document struct{ in any }

func (d document) Value() (driver.Value, error) {
	b, err := json.Marshal(d.in)
	return string(b), err
}

func (d document) Scan(v any) error {
	switch v := v.(type) {
	case string:
		return json.Unmarshal([]byte(v), d.in)
	case []byte:
		return json.Unmarshal(v, d.in)
	default:
		return errors.New("a document is not stored as text")
	}
}

// basis stores what a rule rests on as JSON; what is not there is the empty text.
type basis struct{ of **access.Basis }

func (b basis) Value() (driver.Value, error) {
	if *b.of == nil {
		return "", nil
	}
	return document{*b.of}.Value()
}

func (b basis) Scan(v any) error {
	*b.of = nil
	if text, ok := v.(string); ok && text == "" {
		return nil
	} else if bytes, ok := v.([]byte); ok && len(bytes) == 0 {
		return nil
	}
	*b.of = &access.Basis{}
	return document{*b.of}.Scan(v)
}

// raw stores JSON as it is; what is not there is the empty text.
type raw struct{ text *json.RawMessage }

func (r raw) Value() (driver.Value, error) { return string(*r.text), nil }

func (r raw) Scan(v any) error {
	*r.text = nil
	switch v := v.(type) {
	case string:
		if v != "" {
			*r.text = json.RawMessage(v)
		}
	case []byte:
		if len(v) > 0 {
			*r.text = append(json.RawMessage(nil), v...)
		}
	default:
		return errors.New("a document is not stored as text")
	}
	return nil
}
