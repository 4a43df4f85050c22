package release_test

import (
	"strings"
	"testing"

	"github.com/loopbackd/loopback/release"
)

func TestCheckMetadata(t *testing.T) {
	for file, want := range map[string]string{
		`{"signed":{"a":[1,"x",true,{"b":2.5}]},"signatures":[]}`: "",
		`{}`:                                   "",
		`{"a":null}`:                           "null",
		`{"a":[null]}`:                         "null",
		`{"a":1,"a":2}`:                        "twice",
		`{"a":1}{}`:                            "after its end",
		`{"a":1`:                               "",
		`[]`:                                   "not a JSON object",
		`null`:                                 "not a JSON object",
		``:                                     "not JSON",
		`{"a":` + strings.Repeat("[", 100_000): "nested",
	} {
		err := release.CheckMetadata([]byte(file))
		valid := want == "" && strings.HasSuffix(file, "}")
		if (err == nil) != valid || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, wanted %q", file, err, want)
		}
	}
}

func FuzzCheckMetadata(f *testing.F) {
	f.Add([]byte(`{"a":{"b":[1,{}]}}`))
	f.Fuzz(func(t *testing.T, file []byte) { _ = release.CheckMetadata(file) })
}
