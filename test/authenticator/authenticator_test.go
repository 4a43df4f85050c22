package authenticator

import "testing"

// A key whose coordinate begins with a zero byte, as one in 128 does, would be shorter.
func TestKeysAreWhole(t *testing.T) {
	want := len(Key(t).Key.AttestationData())
	for range 1000 {
		if got := len(Key(t).Key.AttestationData()); got != want {
			t.Fatalf("a key of %d bytes, want %d", got, want)
		}
	}
}
