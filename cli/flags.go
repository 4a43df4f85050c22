package cli

import (
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/loopbackd/loopback/fault"
)

// days is a flag for a span of time that also takes days: 36h, 7d. Its zero value was not given.
type days struct {
	d    time.Duration
	zero bool // 0 has a meaning: none
}

func (d *days) String() string {
	if d.d == 0 {
		return ""
	}
	return fault.Span(d.d)
}

func (d *days) Type() string { return "duration" }

func (d *days) Set(s string) error {
	v, err := parseSpan(s)
	switch {
	case err != nil:
		return err
	case v < 0, v == 0 && !d.zero:
		return usage("%q is too short; for example 90m, 36h or 7d", s)
	}
	d.d = v
	return nil
}

func parseSpan(s string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		f, err := strconv.ParseFloat(n, 64)
		if f *= 24 * float64(time.Hour); err == nil && math.Abs(f) < math.MaxInt64 {
			return time.Duration(f), nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return 0, usage("%q is not a span of time; for example 90m, 36h or 7d", s)
	}
	return v, nil
}

func (d *days) proto() *durationpb.Duration {
	if d.d == 0 {
		return nil
	}
	return durationpb.New(d.d)
}

// moment is a flag for a point in time: RFC 3339, a day, or a span before now.
type moment struct {
	t     time.Time
	ahead bool // a span is one after now
}

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
	d, err := parseSpan(s)
	if m.ahead && (err != nil || d < 0) {
		return usage("%q is not a time; for example 2026-01-31, 2026-01-31T15:04:05Z, or 2h for two hours from now", s)
	}
	if err != nil || d < 0 {
		return usage("%q is not a time; for example 2026-01-31, 2026-01-31T15:04:05Z, or 2h for two hours ago", s)
	}
	if m.ahead {
		d = -d
	}
	m.t = time.Now().Add(-d)
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
		if _, twice := out[k]; twice {
			return nil, usage("the label %q is given twice", k)
		}
		out[k] = v
	}
	return out, nil
}
