package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/stream"
)

// How output is stored.
const (
	storeBytes = 512 << 10 // half of what a host has on its way, so that it goes on meanwhile
	readBytes  = 32 << 10
	storeEvery = 100 * time.Millisecond
	showAfter  = time.Second // a command that lasts longer is shown as running
	partWithin = 10 * time.Second
)

// piece is something that came.
type piece struct {
	channel exec.Channel // empty: the result
	size    int
	data    []byte // of it, what is kept
	result  exec.Result
	err     error // the channel is over: io.EOF, or the session is
}

// consume stores what a stream brings, until the command has ended or nothing comes of it any more.
func (s *Service) consume(ctx context.Context, r exec.Run, h exec.Host, end *stream.End, out, errs, control *stream.Reader) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	pieces := make(chan piece, 4)
	give := func(p piece) bool {
		select {
		case pieces <- p:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for channel, reader := range map[exec.Channel]*stream.Reader{exec.Stdout: out, exec.Stderr: errs} {
		at := h.Stdout
		if channel == exec.Stderr {
			at = h.Stderr
		}
		s.work.Go(func() {
			buffer := make([]byte, readBytes)
			for {
				n, err := reader.Next(ctx, buffer)
				p := piece{channel: channel, size: n, err: err}
				if at < exec.MaxKept {
					p.data = bytes.Clone(buffer[:min(n, int(exec.MaxKept-at))])
				}
				at += int64(n)
				if !give(p) || err != nil {
					return
				}
			}
		})
	}
	s.work.Go(func() {
		line, err := io.ReadAll(io.LimitReader(unacknowledged{ctx, control}, 64<<10))
		p := piece{err: err}
		if err == nil {
			p.err = json.Unmarshal(line, &p.result)
		}
		give(p)
	})
	c := &collector{service: s, run: r, host: h}
	return c.collect(ctx, end, pieces, []*stream.Reader{out, errs, control})
}

// unacknowledged reads without an ack: the result counts once it is stored.
type unacknowledged struct {
	ctx context.Context
	*stream.Reader
}

func (u unacknowledged) Read(p []byte) (int, error) { return u.Next(u.ctx, p) }

// collector gathers pieces into transactions.
type collector struct {
	service *Service
	run     exec.Run
	host    exec.Host // as it is stored, with what is gathered
	output  []exec.Output
	size    int
	dirty   bool
}

func (c *collector) collect(ctx context.Context, end *stream.End, pieces <-chan piece, readers []*stream.Reader) error {
	s := c.service
	store := time.NewTimer(storeEvery)
	store.Stop()
	defer store.Stop()
	show := time.NewTimer(showAfter)
	defer show.Stop()
	open, armed := 3, false
	var result *exec.Result
	for {
		select {
		case p := <-pieces:
			if p.err != nil && !errors.Is(p.err, io.EOF) {
				_ = c.store(ctx) // what has come is kept
				return nil       // the session is over: whoever ended it has said why
			}
			if p.channel == "" {
				result = &p.result
				open--
			} else if p.err != nil {
				open--
			}
			c.add(p)
			if open == 0 {
				conclude(&c.host, *result, s.Now().UTC())
				c.dirty = true
				if err := c.store(ctx); err != nil {
					end.Close(nil)
					return ignoreGone(err)
				}
				c.ack(readers)
				part(ctx, end)
				return nil
			}
			if c.size >= storeBytes {
				if err := c.store(ctx); err != nil {
					end.Close(fault.Of(err))
					return ignoreGone(err)
				}
				c.ack(readers[:2])
			} else if c.dirty && !armed {
				armed = true
				store.Reset(storeEvery)
			}
		case <-store.C:
			armed = false
			if err := c.store(ctx); err != nil {
				end.Close(fault.Of(err))
				return ignoreGone(err)
			}
			c.ack(readers[:2])
		case <-show.C:
			if end.Counts().Attachments == 0 {
				show.Reset(showAfter)
				continue
			}
			c.host.State, c.host.Since, c.dirty = exec.OnHost, s.Now().UTC(), true
			if c.host.StartedAt.IsZero() {
				c.host.StartedAt = c.host.Since
			}
			if err := c.store(ctx); err != nil {
				end.Close(fault.Of(err))
				return ignoreGone(err)
			}
		case <-end.Done():
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// part waits until the host has heard that all is stored.
func part(ctx context.Context, end *stream.End) {
	timer := time.NewTimer(partWithin)
	defer timer.Stop()
	select {
	case <-end.Done():
	case <-timer.C:
	case <-ctx.Done():
	}
	end.Close(nil)
}

// add takes a piece into what is to be stored, as far as it is kept.
func (c *collector) add(p piece) {
	if p.size == 0 {
		return
	}
	at := &c.host.Stdout
	if p.channel == exec.Stderr {
		at = &c.host.Stderr
	}
	offset := *at
	*at += int64(p.size)
	c.size += p.size
	c.dirty = true
	kept := p.data
	if n := p.size - len(kept); n > 0 {
		c.host.Dropped += int64(n)
		c.service.metrics.dropped.Add(float64(n))
	}
	if len(kept) == 0 {
		return
	}
	for i := range c.output {
		if o := &c.output[i]; o.Channel == p.channel && o.Offset+int64(len(o.Data)) == offset {
			o.Data = append(o.Data, kept...)
			return
		}
	}
	c.output = append(c.output, exec.Output{OrderID: c.host.ID, RunID: c.run.ID, HostID: c.host.HostID, Channel: p.channel, Offset: offset, Data: kept})
}

// store writes what was gathered. While the database is away it waits: the host's ring fills, and its command waits with it.
func (c *collector) store(ctx context.Context) error {
	for c.dirty {
		err := c.service.put(ctx, c.run, c.host.ID, func(h *exec.Host) {
			c.host.Replica = h.Replica
			if h.State == exec.OnHost && !c.host.State.Over() { // the host said so meanwhile
				c.host.State, c.host.Since, c.host.StartedAt = h.State, h.Since, h.StartedAt
			}
			*h = c.host
		}, c.output)
		if k := fault.KindOf(err); (k == fault.Unavailable || k == fault.Timeout) && ctx.Err() == nil {
			pause(ctx, lookEvery)
			continue
		}
		if err != nil {
			return err
		}
		c.output, c.size, c.dirty = nil, 0, false
	}
	return nil
}

// ack tells the host what is stored.
func (c *collector) ack(readers []*stream.Reader) {
	for i, r := range readers {
		switch i {
		case 0:
			r.Ack(uint64(c.host.Stdout))
		case 1:
			r.Ack(uint64(c.host.Stderr))
		default:
			r.Ack(r.Offset())
		}
	}
}
