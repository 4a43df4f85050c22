package id

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestIdsSortByTheTimeTheyWereMade(t *testing.T) {
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	var ids []string
	for i := range 1000 {
		ids = append(ids, New("hst", at.Add(time.Duration(i)*time.Millisecond)))
	}
	if !slices.IsSorted(ids) {
		t.Error("later ids sort before earlier ones")
	}
	for i, s := range ids {
		if got, want := Time(s), at.Add(time.Duration(i)*time.Millisecond); !got.Equal(want) {
			t.Fatalf("%s: got %s, want %s", s, got, want)
		}
	}
}

func TestIdsDiffer(t *testing.T) {
	seen, at := map[string]bool{}, time.Now()
	for range 100_000 {
		s := New("x", at)
		if seen[s] {
			t.Fatalf("%s was made twice", s)
		}
		seen[s] = true
	}
}

func TestValid(t *testing.T) {
	good := New("hst", time.Now())
	for s, want := range map[string]bool{
		good: true, strings.ToUpper(good): false, good + "0": false, good[:len(good)-1]: false, "tok" + good[3:]: false,
		"": false, "hst_": false, "hst_" + strings.Repeat("u", Length): false, "hst-" + good[4:]: false,
	} {
		if Valid("hst", s) != want {
			t.Errorf("%q: got %v", s, !want)
		}
	}
	if !Time("nonsense").IsZero() || !Time("hst_"+strings.Repeat("!", Length)).IsZero() {
		t.Error("nonsense has a time")
	}
}

func FuzzValid(f *testing.F) {
	f.Add(New("hst", time.Now()))
	f.Fuzz(func(t *testing.T, s string) {
		if Valid("hst", s) && Time(s).IsZero() {
			t.Errorf("%q is valid and has no time", s)
		}
	})
}
