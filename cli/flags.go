package cli

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func isTerminal(f *os.File) bool { return isatty.IsTerminal(f.Fd()) }

func sortStrings(s []string) { slices.Sort(s) }

// days is a flag for a span of time that also takes days: 36h, 7d.
type days struct{ d time.Duration }

func (d *days) String() string {
	if d.d == 0 {
		return ""
	}
	return d.d.String()
}

func (d *days) Type() string { return "duration" }

func (d *days) Set(s string) error {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		if f, err := strconv.ParseFloat(n, 64); err == nil {
			d.d = time.Duration(f * 24 * float64(time.Hour))
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return usage("%q is not a span of time; for example 90m, 36h or 7d", s)
	}
	d.d = v
	return nil
}

func (d *days) proto() *durationpb.Duration {
	if d.d == 0 {
		return nil
	}
	return durationpb.New(d.d)
}

// moment is a flag for a point in time: RFC 3339, a day, or a span before now.
type moment struct{ t time.Time }

func (m *moment) String() string {
	if m.t.IsZero() {
		return ""
	}
	return m.t.Format(time.RFC3339)
}

func (m *moment) Type() string { return "time" }

func (m *moment) Set(s string) error {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			m.t = t
			return nil
		}
	}
	var d days
	if d.Set(s) != nil {
		return usage("%q is not a time; for example 2026-01-31, 2026-01-31T15:04:05Z, or 2h for two hours ago", s)
	}
	m.t = time.Now().Add(-d.d)
	return nil
}

func (m *moment) proto() *timestamppb.Timestamp {
	if m.t.IsZero() {
		return nil
	}
	return timestamppb.New(m.t)
}

// labels reads key=value words.
func labels(words []string) (map[string]string, error) {
	out := map[string]string{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return nil, usage("%q is not a label; write key=value", w)
		}
		out[k] = v
	}
	return out, nil
}
