package wire

import (
	"crypto/ed25519"
	"testing"

	loopbackv1 "github.com/loopbackd/loopback/api/loopback/v1"
)

func TestKeysAreFollowedStepByStepOrNotAtAll(t *testing.T) {
	var keys []ed25519.PrivateKey
	var public []ed25519.PublicKey
	for range 5 {
		p, k, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		keys, public = append(keys, k), append(public, p)
	}
	var list []*loopbackv1.Succession
	for i := range 4 {
		list = append(list, SignSuccession(keys[i], "hst_1", public[i+1], int64(i+2)))
	}
	for from := range 4 {
		after, generation, ok := FollowSuccessions("hst_1", public[from], public[4], list)
		if !ok || len(after) != 4-from || generation != 5 || !after[len(after)-1].Equal(public[4]) {
			t.Errorf("from key %d: got %d keys, generation %d, %v", from, len(after), generation, ok)
		}
	}
	forged := SignSuccession(keys[0], "hst_1", public[2], 3)
	forged.PublicKey = public[1]
	for name, c := range map[string]struct {
		host         string
		known, shown ed25519.PublicKey
		list         []*loopbackv1.Succession
	}{
		"of another host":              {"hst_2", public[0], public[4], list},
		"from a key that is not there": {"hst_1", public[4], public[4], list},
		"to another key":               {"hst_1", public[0], public[3], list},
		"with a step left out":         {"hst_1", public[0], public[4], append(append([]*loopbackv1.Succession{}, list[:1]...), list[2:]...)},
		"in another order":             {"hst_1", public[0], public[4], []*loopbackv1.Succession{list[1], list[0], list[2], list[3]}},
		"with a forged step":           {"hst_1", public[0], public[4], []*loopbackv1.Succession{list[0], forged, list[2], list[3]}},
		"backwards in generation":      {"hst_1", public[0], public[2], []*loopbackv1.Succession{SignSuccession(keys[0], "hst_1", public[1], 9), list[1]}},
		"more than there may be":       {"hst_1", public[0], public[4], append(make([]*loopbackv1.Succession, MaxSuccessions), list...)},
		"none":                         {"hst_1", public[0], public[4], nil},
	} {
		if _, _, ok := FollowSuccessions(c.host, c.known, c.shown, c.list); ok {
			t.Errorf("%s: it was believed", name)
		}
	}
}
