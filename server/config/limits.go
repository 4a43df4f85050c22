package config

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/loopbackd/loopback/fault"
)

// Limits keep one caller, or a stranger, from taking what the others need (package limit).
type Limits struct {
	SourceRate        int // requests a second from one address that present no valid key
	SourceHandshakes  int // TLS handshakes a second with one address, those of agents that prove themselves apart
	SourceConnections int // connections from one address, agents' links apart
	CallerRate        int // API calls a second of one key
	Calls             int // API calls at once
	CallerCalls       int // of them, those of one key
	Streams           int // watches and waits at once
	CallerStreams     int // of them, those of one key

	ReadTimeout  time.Duration // a request may take to arrive
	WriteTimeout time.Duration // a reader may take for the next part of an answer
}

func (l *Limits) register(f *pflag.FlagSet) {
	f.IntVar(&l.SourceRate, "source-rate", 200, "requests a second from one address (IPv6: /64) that present no valid key; ten times as many at once")
	f.IntVar(&l.SourceHandshakes, "source-handshakes", 200, "TLS handshakes a second with one address (IPv6: /64), those of agents that prove themselves and trusted proxies apart; ten times as many at once")
	f.IntVar(&l.SourceConnections, "source-connections", 1000, "connections from one address (IPv6: /64), links of agents and trusted proxies apart")
	f.IntVar(&l.CallerRate, "caller-rate", 1000, "API calls a second of one key; twice as many at once")
	f.IntVar(&l.Calls, "calls", 256, "API calls at once; further ones wait in turn, a line for each key")
	f.IntVar(&l.CallerCalls, "caller-calls", 128, "API calls at once of one key")
	f.IntVar(&l.Streams, "streams", 2000, "watches and waits at once")
	f.IntVar(&l.CallerStreams, "caller-streams", 100, "watches and waits at once of one key")
	f.DurationVar(&l.ReadTimeout, "read-timeout", time.Minute, "how long a request may take to arrive")
	f.DurationVar(&l.WriteTimeout, "write-timeout", 30*time.Second, "how long a reader may take for the next part of an answer before it is cut off")
}

func (l *Limits) check(c *fault.Check, at func(flag string) string) {
	for _, one := range []struct {
		flag  string
		value int
	}{
		{"source-rate", l.SourceRate}, {"source-handshakes", l.SourceHandshakes}, {"source-connections", l.SourceConnections}, {"caller-rate", l.CallerRate},
		{"calls", l.Calls}, {"caller-calls", l.CallerCalls}, {"streams", l.Streams}, {"caller-streams", l.CallerStreams},
	} {
		c.That(one.value >= 1, at(one.flag), "is %d, less than 1", one.value)
	}
	c.That(l.ReadTimeout >= time.Second, at("read-timeout"), "is %s, less than a second", l.ReadTimeout)
	c.That(l.WriteTimeout >= time.Second, at("write-timeout"), "is %s, less than a second", l.WriteTimeout)
}
