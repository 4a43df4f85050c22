package sink_test

import (
	"bufio"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/server/sink"
	"github.com/loopbackd/loopback/server/sink/sinktest"
	noun "github.com/loopbackd/loopback/sink"
)

func TestSyslogGetsEverythingAlsoFromAServerThatDies(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		cert, ca := sinktest.Certificate()
		r := rand.New(rand.NewPCG(3, 3))
		var mu sync.Mutex
		s := &sinktest.Syslog{Crate: sinktest.NewCrate(), Complain: t.Errorf, Die: func() bool { mu.Lock(); defer mu.Unlock(); return r.IntN(400) == 0 }}
		defer s.Serve(b.net.Listen("example.com:6514"), cert)()
		b.create(t, sink.New{Name: "logs", Organisation: "acme", Kind: noun.Syslog, Target: "example.com:6514", CA: ca, Since: time.Unix(1, 0)})
		b.write(t, 500, 10)
		b.write(t, 1, 50_000)
		b.write(t, 300, 10)
		defer b.ship("one")()
		b.await(t, s.Crate)
	})
}

func TestACollectorGetsEverythingAndMayRejectSome(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		tries := 0
		c := b.collector(t, func([]string) sinktest.Answer {
			if tries++; tries%3 == 1 {
				return sinktest.Answer{Reject: 1}
			}
			return sinktest.Answer{}
		})
		b.write(t, 700, 10)
		defer b.ship("one")()
		b.await(t, c.Crate)
	})
}

func TestAFileHoldsEverythingAndIsMendedAfterACrash(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.create(t, sink.New{Name: "archive", Organisation: "acme", Kind: noun.File, Target: "audit.jsonl", Since: time.Unix(1, 0)})
		path := filepath.Join(b.dir, "sinks", "org_1", "audit.jsonl")
		const half = `{"half a li`
		read := func() (c *sinktest.Crate, mended bool) {
			c, mended = sinktest.NewCrate(), true
			f, err := os.Open(path)
			if err != nil {
				return c, false
			}
			defer f.Close()
			lines := bufio.NewScanner(f)
			lines.Buffer(nil, 32<<20)
			for lines.Scan() {
				if lines.Text() == half {
					mended = false
					continue
				}
				if err := c.Take(lines.Bytes()); err != nil {
					t.Fatal(err)
				}
			}
			return c, mended
		}
		all := func() bool { c, mended := read(); return mended && c.Has(b.wrote) }
		for range 5 {
			b.write(t, 50, 1000)
			stop := b.ship("one")
			until(t, "the file holds everything", all)
			stop()
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteString(half) // as a power cut leaves it
			}
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		b.write(t, 1, 10)
		defer b.ship("one")()
		until(t, "the file holds everything", all)
		c, _ := read()
		b.await(t, c)
		if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), half) {
			t.Errorf("half a line is still there: %v", err)
		}
	})
}
