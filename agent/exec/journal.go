package exec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
)

// keep is how long entries stay: far longer than any order that is not void.
const keep = 7 * 24 * time.Hour

// entry is what the journal knows of an order: that it was begun, and, once that is known, how it ended.
type entry struct {
	Begun  time.Time    `json:"begun"`
	Result *exec.Result `json:"result,omitempty"`
}

// journal is a folder with a file for each order that was begun.
type journal struct{ dir string }

var (
	errJournal = fault.New(fault.Unavailable, "journal_unwritable", "the host's journal of orders cannot be written, so nothing was begun").
			WithHint("make room on the disk that holds /var/lib/loopback")
	errKnown = errors.New("the order was begun before")
)

func (j journal) path(order string) string { return filepath.Join(j.dir, order+".json") }

// begin notes, durably, that an order is begun. errKnown where it was before: entry then says what is known of it.
func (j journal) begin(order string, now time.Time) (entry, error) {
	if e, err := j.read(order); err == nil {
		return e, errKnown
	} else if !errors.Is(err, fs.ErrNotExist) {
		return entry{}, errKnown // it is there and cannot be read: it was begun, and nothing is known of it
	}
	return entry{}, j.write(order, entry{Begun: now})
}

func (j journal) end(order string, begun time.Time, r exec.Result) error {
	return j.write(order, entry{begun, &r})
}

func (j journal) read(order string) (e entry, err error) {
	b, err := os.ReadFile(j.path(order))
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	return e, err
}

func (j journal) write(order string, e entry) error {
	b, err := json.Marshal(e)
	if err == nil {
		err = durable.MkdirAll(j.dir, 0o700)
	}
	if err == nil {
		err = durable.WriteFile(j.path(order), b, 0o600)
	}
	if err != nil {
		return errJournal.WithCause(fmt.Errorf("write the journal: %w", err))
	}
	return nil
}

// open are the orders that were begun and whose end is not noted, as far as anybody may still wait for them.
func (j journal) open(now time.Time) (orders []string) {
	files, _ := os.ReadDir(j.dir) // one that cannot be read is answered when it is asked for
	for _, f := range files {
		order, ok := strings.CutSuffix(f.Name(), ".json")
		if e, err := j.read(order); ok && err == nil && e.Result == nil && now.Sub(e.Begun) < exec.MaxTimeout+time.Hour {
			orders = append(orders, order)
		}
	}
	return orders
}

// prune forgets orders that were begun long ago.
func (j journal) prune(now time.Time) {
	files, _ := os.ReadDir(j.dir) // what cannot be read now is pruned another time
	for _, f := range files {
		if info, err := f.Info(); err == nil && now.Sub(info.ModTime()) > keep {
			_ = os.Remove(filepath.Join(j.dir, f.Name()))
		}
	}
}
