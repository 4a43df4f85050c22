package query

import (
	"strings"
	"testing"

	"github.com/loopbackd/loopback/fault"
)

var fields = []string{"name", "state", "version"}

func thing(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func TestExpressionsHoldWhereTheySay(t *testing.T) {
	web := thing("name", "Web-1", "state", "offline", "version", "1.2.3", "label.env", "prod", "label.note", "a b")
	for text, want := range map[string]bool{
		"web":                             true,
		"WEB":                             true,
		"db":                              false,
		"name=web-1":                      false,
		"name=Web-1":                      true,
		"name~eb- state=offline":          true,
		"name~eb- and state=managed":      false,
		"state=managed or web":            true,
		"not web":                         false,
		"not state=managed and web":       true,
		"not (state=managed or web)":      false,
		"state in (managed, offline)":     true,
		"state in(managed)":               false,
		"state!=managed":                  true,
		"version!~1.2":                    false,
		"label.env=prod":                  true,
		"label.env!=prod":                 false,
		"label.zone!=a":                   true,
		"label.zone=a":                    false,
		`label.note="a b"`:                true,
		`"web-1"`:                         true,
		`name="Web-1" or state=x y`:       true,
		"db or web and state=offline":     true,
		"(db or web) and state=managed":   false,
		"notaname":                        false,
		"not(db)":                         true,
		"web AND NOT db OR state=managed": true,
	} {
		e, err := Parse(text, fields...)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := e.Matches(web); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
	if e, err := Parse("  ", fields...); e != nil || err != nil {
		t.Errorf("nothing: got %v, %v, want no expression", e, err)
	}
}

func TestWhatCannotBeReadIsSaidWithItsPlace(t *testing.T) {
	for text, want := range map[string]string{
		"(web":                     "a parenthesis is not closed",
		"web)":                     "no opening one, at character 4",
		"colour=red":               `there is no field "colour"; there are: name, state, version, label.KEY, at character 1`,
		"label.=x":                 `there is no field "label."`,
		"name=":                    "a name or a value is missing, at character 6",
		"state in managed":         "values in parentheses",
		"state in (a":              "not closed",
		`name="x`:                  "a quotation is not closed",
		"and":                      "",
		"web or":                   "missing",
		"not":                      "",
		strings.Repeat("a ", 65):   "more than 64 terms",
		strings.Repeat("(", 40):    "nested too deeply",
		strings.Repeat("a", 5000):  "5000 bytes",
		strings.Repeat("not ", 40): "nested too deeply",
		"name in (" + strings.Repeat("a,", 80) + "a)": "more than 64 values",
	} {
		_, err := Parse(text, fields...)
		if want == "" {
			continue // a word like any other, or not: both are fine, as long as it ends
		}
		if err == nil || !strings.Contains(err.Error(), want) || fault.Of(err).Code != "query_invalid" {
			t.Errorf("%.20q: got %v, want %q", text, err, want)
		}
	}
}

// What is written parses to the same.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"web", `name~"a b" and not (state in (x, "y\"z") or label.env!=prod)`, "not not a", "a or b and c", "((a))", "in", "not in (a)", "é~ü"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Parse(text, fields...)
		if err != nil || e == nil {
			return
		}
		again, err := Parse(e.String(), fields...)
		if len(e.String()) > MaxLength {
			return
		}
		if err != nil {
			t.Fatalf("%q was written as %q, which cannot be read: %v", text, e, err)
		}
		if again.String() != e.String() {
			t.Fatalf("%q was written as %q, and that as %q", text, e, again)
		}
	})
}
