// Package sinktest is the other end of sinks: receivers that speak the real protocols over any listener, keep what they
// answered for, and can be made to fail in the ways that receivers do. Over Net they live in a synctest bubble, where a day
// without an answer costs nothing.
package sinktest

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

// Crate is what a receiver has: every event that it answered for, put together from its parts.
type Crate struct {
	mu    sync.Mutex
	seen  map[string]int
	parts map[string]map[int]string
	whole map[string]string
	order []int64
}

// NewCrate is an empty one.
func NewCrate() *Crate {
	return &Crate{seen: map[string]int{}, parts: map[string]map[int]string{}, whole: map[string]string{}}
}

// event is what all formats have somewhere.
type event struct {
	ID       string `json:"id"`
	Of       string `json:"of"`
	Part     int    `json:"part"`
	Parts    int    `json:"parts"`
	Text     string `json:"text"`
	Position int64  `json:"position"`
	Metadata struct {
		UID      string `json:"uid"`
		Sequence int64  `json:"sequence"`
	} `json:"metadata"`
	Event struct {
		ID       string `json:"id"`
		Sequence int64  `json:"sequence"`
	} `json:"event"`
}

// Take keeps an event, in any format, unless it is there already.
func (c *Crate) Take(body []byte) error {
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		return fmt.Errorf("%.200s: %w", body, err)
	}
	id := e.ID + e.Metadata.UID + e.Event.ID
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[id]++
	if c.seen[id] > 1 {
		return nil
	}
	if e.Of == "" {
		c.whole[id] = string(body)
		c.order = append(c.order, e.Position+e.Metadata.Sequence+e.Event.Sequence)
		return nil
	}
	if c.parts[e.Of] == nil {
		c.parts[e.Of] = map[int]string{}
	}
	c.parts[e.Of][e.Part] = e.Text
	if len(c.parts[e.Of]) == e.Parts {
		var text strings.Builder
		for i := range e.Parts {
			text.WriteString(c.parts[e.Of][i+1])
		}
		c.whole[e.Of] = text.String()
	}
	return nil
}

// Empty forgets everything.
func (c *Crate) Empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen, c.parts, c.whole, c.order = map[string]int{}, map[string]map[int]string{}, map[string]string{}, nil
}

// Has tells whether all of these entries are there whole.
func (c *Crate) Has(wanted map[string]bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range wanted {
		if c.whole[id] == "" {
			return false
		}
	}
	return true
}

// Body of an entry; empty: it is not there.
func (c *Crate) Body(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.whole[id]
}

// Len is how many entries are there whole.
func (c *Crate) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.whole)
}

// Times is how often each event came.
func (c *Crate) Times() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]int{}
	for id, n := range c.seen {
		out[id] = n
	}
	return out
}

// Check holds the crate against what its receiver had to get: all of it, nothing else but checkpoints, whole, and at its
// first coming in order. It returns what is wrong.
func (c *Crate) Check(wanted map[string]bool) (wrong []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range wanted {
		if c.whole[id] == "" {
			wrong = append(wrong, id+" is missing")
		}
	}
	for id, text := range c.whole {
		if !wanted[id] && !strings.HasPrefix(id, "checkpoint-") {
			wrong = append(wrong, id+" is not for this receiver")
		}
		if !json.Valid([]byte(text)) {
			wrong = append(wrong, id+" was not put together again")
		}
	}
	last := int64(0)
	for _, at := range c.order {
		if at == 0 {
			continue // a checkpoint
		}
		if at < last {
			wrong = append(wrong, fmt.Sprintf("position %d came after %d", at, last))
		}
		last = at
	}
	return wrong
}
