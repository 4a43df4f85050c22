package label

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/fault"
)

func TestSelectorsMatchAsInKubernetes(t *testing.T) {
	labels := Set{"env": "prod", "role": "db", "gpu": "", "example.com/zone": "a"}
	for selector, want := range map[string]bool{
		"":                            true,
		"env=prod":                    true,
		"env==prod":                   true,
		"env = prod , role=db":        true,
		"env=test":                    false,
		"env!=test":                   true,
		"missing!=x":                  true, // a missing key satisfies !=
		"missing notin (x,y)":         true,
		"missing=x":                   false,
		"role in (db,web)":            true,
		"role in (web)":               false,
		"role notin (db)":             false,
		"gpu":                         true,
		"!gpu":                        false,
		"!spot":                       true,
		"gpu=":                        true,
		"env=":                        false,
		"example.com/zone in (a,b)":   true,
		"env=prod,role in (web),!gpu": false,
		"role in (db,)":               true,
		"in in (in)":                  false,
	} {
		s, err := Parse(selector)
		if err != nil {
			t.Errorf("%q: %v", selector, err)
			continue
		}
		if got := s.Matches(labels); got != want {
			t.Errorf("%q: got %v, want %v", selector, got, want)
		}
	}
}

func TestWrongSelectorsSayWhere(t *testing.T) {
	for selector, character := range map[string]int{
		"env=prod,":      10,
		"=x":             1,
		"env=pr od":      8,
		"env in prod":    8,
		"env in (a":      10,
		"env in (a b)":   11,
		"-x=1":           1,
		"env=-":          5,
		"a,,b":           3,
		"env~prod":       1,
		"env is (x)":     5,
		"!":              2,
		"!a=b":           3,
		"a=b;c=d":        3,
		"a/b/c=d":        1,
		"env in (a),b c": 14,
	} {
		_, err := Parse(selector)
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), fmt.Sprintf("character %d:", character)) {
			t.Errorf("%q: got %v, want character %d", selector, err, character)
		}
	}
}

// oracle decides a selector in the slowest, plainest way.
func oracle(s Selector, labels Set) bool {
	for _, r := range s {
		v, has := labels[r.Key]
		in := has && slices.Contains(r.Values, v)
		if want := map[Operator]bool{In: in, NotIn: !in, Exists: has, NotExists: !has}[r.Operator]; !want {
			return false
		}
	}
	return true
}

func TestCanonicalTextMeansTheSame(t *testing.T) {
	word := rapid.StringMatching(`[a-c]`)
	rapid.Check(t, func(t *rapid.T) {
		var s Selector
		for range rapid.IntRange(0, 4).Draw(t, "requirements") {
			r := Requirement{Key: word.Draw(t, "key"), Operator: rapid.SampledFrom([]Operator{In, NotIn, Exists, NotExists}).Draw(t, "operator")}
			if r.Operator == In || r.Operator == NotIn {
				r.Values = rapid.SliceOfNDistinct(word, 1, 3, rapid.ID).Draw(t, "values")
				slices.Sort(r.Values)
			}
			s = append(s, r)
		}
		labels := Set(rapid.MapOf(word, word).Draw(t, "labels"))
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q came back as %q (%v)", s, again, err)
		}
		if s.Matches(labels) != oracle(s, labels) || again.Matches(labels) != oracle(s, labels) {
			t.Fatalf("%q on %v: got %v, want %v", s, labels, s.Matches(labels), oracle(s, labels))
		}
	})
}

func TestValidate(t *testing.T) {
	many := Set{}
	for i := range MaxLabels + 1 {
		many[fmt.Sprint("k", i)] = "v"
	}
	for name, s := range map[string]Set{
		"empty key": {"": "v"}, "space": {"a b": "v"}, "long value": {"k": strings.Repeat("v", MaxValue+1)},
		"value with slash": {"k": "a/b"}, "upper prefix": {"Example.com/k": "v"}, "too many": many, "newline": {"k": "a\nb"},
	} {
		var c fault.Check
		s.Validate(&c, "labels")
		if c.Err("x", "x") == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
	var c fault.Check
	Set{"env": "prod", "example.com/Zone_1.a": "", "a": strings.Repeat("v", MaxValue)}.Validate(&c, "labels")
	if err := c.Err("x", "x"); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "env=prod,role in (db,web),!spot", "a notin (b", "a!=,b==c", "x/y", "((", "a=\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q became %q, which became %q (%v)", text, s, again, err)
		}
	})
}
