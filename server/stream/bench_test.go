package stream_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/loopbackd/loopback/server/stream"
	nouns "github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/wire"
)

// BenchmarkOutput moves a command's output from a host to the control plane: over TLS, sealed inside, acknowledged.
func BenchmarkOutput(b *testing.B) {
	d := newDeployment(b)
	p := d.start(b, nil)
	far, host := nouns.New(nouns.Options{}), nouns.New(nouns.Options{})
	defer p.Expect(stream.Session{ID: "ses_1", End: far})()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = host.Keep(context.Background(), time.Minute, d.dialer(p, "", wire.WebSocket, "ses_1").Dial)
	}()
	const size = 64 << 10
	piece := make([]byte, size)
	b.SetBytes(size)
	b.ResetTimer()
	go func() {
		w := host.Writer(1)
		for range b.N {
			if _, err := w.Write(piece); err != nil {
				b.Error(err)
				return
			}
		}
		_ = w.Close()
	}()
	if n, err := io.Copy(io.Discard, far.Reader(1)); n != int64(b.N)*size || err != nil {
		b.Fatalf("%d bytes came: %v", n, err)
	}
	b.StopTimer()
	host.Close(nil)
	<-ended
}
