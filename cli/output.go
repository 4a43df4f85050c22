package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	loopbackv1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

// column is one field of a table.
type column[T any] struct {
	title string
	value func(T) string
}

// encode is a message as the API's own JSON, with empty fields shown so that scripts need not guess.
func encode(m proto.Message) (json.RawMessage, error) {
	b, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = json.Compact(&out, b) // protojson varies its white space on purpose
	return out.Bytes(), err
}

// print writes one resource: a list of fields, or the JSON or YAML of the message.
func (a *app) print(m proto.Message, fields ...[2]string) error {
	if a.flags.output == "table" {
		w := tabwriter.NewWriter(a.Out, 0, 8, 2, ' ', 0)
		for _, f := range fields {
			if f[1] != "" {
				fmt.Fprintf(w, "%s\t%s\n", clean(f[0]), clean(f[1]))
			}
		}
		return w.Flush()
	}
	b, err := encode(m)
	if err != nil {
		return err
	}
	return a.printJSON(b)
}

// printItems writes resources as {"items": […]}.
func printItems[T proto.Message](a *app, items []T) error {
	b := []byte(`{"items":[`)
	for i, m := range items {
		one, err := encode(m)
		if err != nil {
			return err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, one...)
	}
	return a.printJSON(append(b, "]}"...))
}

func (a *app) printJSON(b json.RawMessage) error {
	if a.flags.output == "yaml" {
		return writeYAML(a.Out, b)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err := a.Out.Write(escape(out.Bytes()))
	return err
}

// printEvent writes one of a stream of messages: an object a line, or a YAML document.
func (a *app) printEvent(m proto.Message) error {
	b, err := encode(m)
	if err != nil {
		return err
	}
	if a.flags.output == "yaml" {
		if _, err := io.WriteString(a.Out, "---\n"); err != nil {
			return err
		}
		return writeYAML(a.Out, b)
	}
	_, err = a.Out.Write(append(escape(b), '\n'))
	return err
}

// list fetches all pages (or limit items, when it is more than 0) and prints them.
func list[T proto.Message](a *app, ctx context.Context, limit int, fetch func(context.Context, *loopbackv1.Page) ([]T, string, error), empty string, columns ...column[T]) error {
	if limit < 0 {
		return usage("--limit is %d, less than 0", limit)
	}
	items := []T{}
	page := &loopbackv1.Page{Size: 1000}
	for {
		if limit > 0 {
			page.Size = int32(min(1000, limit-len(items)))
		}
		got, next, err := fetch(ctx, page)
		if err != nil {
			return err
		}
		items = append(items, got...)
		if next == "" || limit > 0 && len(items) >= limit {
			if next != "" {
				a.hint("there are more; --limit sets how many are shown")
			}
			break
		}
		page.Token = next
	}
	if a.flags.output != "table" {
		return printItems(a, items)
	}
	if len(items) == 0 {
		a.hint("%s", empty)
		return nil
	}
	return table(a, items, columns)
}

// widest is how much of a field a table on a terminal shows. The first column names the item and is never cut.
const widest = 60

func table[T any](a *app, items []T, columns []column[T]) error {
	w := tabwriter.NewWriter(a.Out, 0, 8, 2, ' ', 0)
	for i, c := range columns {
		separate(w, i)
		io.WriteString(w, c.title)
	}
	io.WriteString(w, "\n")
	for _, item := range items {
		for i, c := range columns {
			separate(w, i)
			v := first(clean(c.value(item)), "-")
			if r := []rune(v); a.Terminal && i > 0 && len(r) > widest {
				v = string(r[:widest-1]) + "…"
			}
			io.WriteString(w, v)
		}
		io.WriteString(w, "\n")
	}
	return w.Flush()
}

func separate(w io.Writer, i int) {
	if i > 0 {
		io.WriteString(w, "\t")
	}
}

// hostile tells what steers a terminal instead of being shown on it: control characters, and format characters, which
// turn the direction of writing or cannot be seen.
func hostile(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// clean keeps what a host says of itself from steering the reader's terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if hostile(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// ago is how long something was, as people say it.
func ago(t *timestamppb.Timestamp) string {
	if t == nil || !t.IsValid() || t.AsTime().IsZero() {
		return ""
	}
	d := time.Since(t.AsTime())
	if d < 0 {
		return "in " + roughly(-d)
	}
	return roughly(d)
}

// until is when something ends or ended.
func until(t *timestamppb.Timestamp) string {
	s := ago(t)
	if s == "" || strings.HasPrefix(s, "in ") {
		return s
	}
	return s + " ago"
}

// roughly is a span of time in its largest unit that still says something.
func roughly(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	default:
		return strconv.Itoa(int(d.Hours()/24)) + "d"
	}
}

func stamp(t *timestamppb.Timestamp) string {
	if t == nil || !t.IsValid() || t.AsTime().IsZero() {
		return ""
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05 MST")
}

func duration(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return fault.Span(d.AsDuration())
}

// uptime to the minute: nobody reads nanoseconds.
func uptime(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return fault.Span(d.AsDuration().Round(time.Minute))
}

func pairs(m map[string]string) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for i, k := range keys {
		keys[i] = k + "=" + m[k]
	}
	return strings.Join(keys, ",")
}

func bytesize(n int64) string {
	const unit = 1024
	if n < unit {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, i := float64(n)/unit, 0
	for ; v >= unit && i < 4; i++ {
		v /= unit
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " " + []string{"KiB", "MiB", "GiB", "TiB", "PiB"}[i]
}
