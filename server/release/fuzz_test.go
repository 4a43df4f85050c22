package release_test

import (
	"testing"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	server "github.com/loopbackd/loopback/server/release"
)

// What a publisher sends is parsed before a signature can be checked. Whatever it is, nothing becomes current that was
// not signed, and the refusal has a code.
func FuzzPublish(f *testing.F) {
	f.Add([]byte(`{"signatures":[],"signed":{"_type":"root"}}`), []byte(`{"signatures":[],"signed":{"_type":"targets","targets":{"a":null}}}`))
	f.Add([]byte(`{"signed":{"_type":"root","roles":{"root":null},"keys":{"a":null}}}`), []byte(`{"signed":{"_type":"targets","delegations":{}}}`))
	f.Add([]byte(`[]`), []byte(`{}`))
	empty, full := newBench(f), newBench(f)
	full.mustPublish(full.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
	f.Fuzz(func(t *testing.T, root, targets []byte) {
		for _, b := range []*bench{empty, full} {
			for _, roots := range [][][]byte{nil, {root}} {
				if _, err := b.service.Publish(publisher(t.Context()), roots, targets); fault.KindOf(err) == "" || fault.KindOf(err) == fault.Internal {
					t.Fatalf("got %v, wanted a refusal", err)
				}
			}
		}
	})
}

func FuzzUpload(f *testing.F) {
	f.Add("ab", int64(3), int64(0), []byte("x"))
	f.Add("0000000000000000000000000000000000000000000000000000000000000000", int64(3), int64(2), []byte("xyz"))
	b := newBench(f)
	f.Fuzz(func(t *testing.T, sum string, length, offset int64, data []byte) {
		at, complete, err := b.service.Upload(publisher(t.Context()), server.Part{SHA256: sum, Length: length, Offset: offset, Data: data})
		if err != nil && fault.KindOf(err) != fault.Invalid {
			t.Fatalf("got %v, wanted it taken or invalid", err)
		}
		if err == nil && (at < 0 || at > length || complete && at != length) {
			t.Fatalf("got offset %d of %d, complete %v", at, length, complete)
		}
	})
}
