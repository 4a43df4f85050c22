package secret

import (
	"bytes"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
)

func TestWhatIsFormattedIsParsed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 20, 20).Draw(t, "body")
		resource := id.New("tok", time.UnixMilli(rapid.Int64Range(0, 1<<47).Draw(t, "at")))
		s := Format("lbt", resource, body)
		public, got, err := Parse("lbt", s, 20)
		if err != nil || "tok_"+public != resource || !bytes.Equal(got, body) {
			t.Fatalf("%s: got %s, %x, %v", s, public, got, err)
		}
	})
}

// Whatever single character is changed, dropped or doubled, the credential is malformed: a scanner and a person who
// mistyped are told without asking anybody.
func TestEveryMistakeIsSeen(t *testing.T) {
	s := Format("lbt", id.New("tok", time.Now()), bytes.Repeat([]byte{0xa5}, 20))
	try := func(wrong string) {
		if _, _, err := Parse("lbt", wrong, 20); wrong != s && fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q was accepted (%v)", wrong, err)
		}
	}
	for i := range s {
		try(s[:i])
		try(s[:i] + s[i+1:])
		try(s[:i] + s[i:i+1] + s[i:])
		for _, c := range "0aZ_-\x00é" {
			try(s[:i] + string(c) + s[i+1:])
		}
	}
	try(s + s)
	try(" " + s)
	if _, _, err := Parse("lbk", s, 20); err == nil {
		t.Error("a token passed for a key")
	}
}

func TestAnErrorHoldsNothingOfTheCredential(t *testing.T) {
	s := Format("lbt", id.New("tok", time.Now()), bytes.Repeat([]byte{1}, 20))
	_, _, err := Parse("lbt", s[:len(s)-1]+"!", 20)
	if e := fault.Of(err); bytes.Contains([]byte(e.Error()+e.Hint), []byte(s[10:40])) {
		t.Errorf("the error repeats it: %v", err)
	}
}

func TestHashNeedsThePepper(t *testing.T) {
	if bytes.Equal(Hash([]byte("a"), "x"), Hash([]byte("b"), "x")) || !bytes.Equal(Hash([]byte("a"), "x"), Hash([]byte("a"), "x")) {
		t.Error("the hash does not depend on the pepper alone")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Format("lbt", id.New("tok", time.Now()), make([]byte, 20)))
	f.Add("lbt_x_y")
	f.Fuzz(func(t *testing.T, s string) {
		public, body, err := Parse("lbt", s, 20)
		if err == nil && Format("lbt", "tok_"+public, body) != s {
			t.Errorf("%q has two spellings", s)
		}
	})
}
