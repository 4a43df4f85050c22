package state

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
	"github.com/loopbackd/loopback/fault"
)

// keepOrders is how long entries stay: far longer than any order that is not void.
const keepOrders = 7 * 24 * time.Hour

// Begun is what a journal knows of an order: that it was begun, and, once that is known, how it ended.
type Begun[R any] struct {
	Begun  time.Time `json:"begun"`
	Result *R        `json:"result,omitempty"`
}

// Journal is a folder with a file for each order that was begun. An order is in it, durably, before anything is done.
type Journal[R any] struct{ Dir string }

// ErrOrder refuses an order whose id, a file's name here, is none.
var ErrOrder = fault.New(fault.Invalid, "order_malformed", "the order's id is not one")

// ErrLate refuses an order that comes when it is void.
var ErrLate = fault.New(fault.Precondition, "order_late", "the order came after its time and was not begun")

var errJournal = fault.New(fault.Unavailable, "journal_unwritable", "the host's journal of orders cannot be written, so nothing was begun").
	WithHint("make room on the disk that holds /var/lib/loopback")

func (j Journal[R]) path(order string) string { return filepath.Join(j.Dir, order+".json") }

// Begin notes that an order is begun, unless it was before: known is true then, and e is what is known of it. After an error, ErrLate
// among them, nothing is noted.
func (j Journal[R]) Begin(order string, notAfter, now time.Time) (e Begun[R], known bool, err error) {
	if e, err = j.Read(order); !errors.Is(err, fs.ErrNotExist) {
		return e, true, nil // also where it cannot be read: it was begun, and nothing is known of it
	}
	if now.After(notAfter) {
		return e, false, ErrLate
	}
	e = Begun[R]{Begun: now}
	return e, false, j.write(order, e)
}

// End notes how an order ended.
func (j Journal[R]) End(order string, begun time.Time, r R) error {
	return j.write(order, Begun[R]{begun, &r})
}

// Read is what is known of an order; fs.ErrNotExist where it was never begun.
func (j Journal[R]) Read(order string) (e Begun[R], err error) {
	b, err := os.ReadFile(j.path(order))
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	return e, err
}

func (j Journal[R]) write(order string, e Begun[R]) error {
	b, err := json.Marshal(e)
	if err == nil {
		err = durable.MkdirAll(j.Dir, 0o700)
	}
	if err == nil {
		err = durable.WriteFile(j.path(order), b, 0o600)
	}
	if err != nil {
		return errJournal.WithCause(fmt.Errorf("write the journal: %w", err))
	}
	return nil
}

// Open are the orders that were begun after a time and whose end is not noted.
func (j Journal[R]) Open(since time.Time) (orders []string) {
	files, _ := os.ReadDir(j.Dir) // one that cannot be read is answered when it is asked for
	for _, f := range files {
		order, ok := strings.CutSuffix(f.Name(), ".json")
		if e, err := j.Read(order); ok && err == nil && e.Result == nil && e.Begun.After(since) {
			orders = append(orders, order)
		}
	}
	return orders
}

// Prune forgets orders that were begun long ago.
func (j Journal[R]) Prune(now time.Time) {
	files, _ := os.ReadDir(j.Dir) // what cannot be read now is pruned another time
	for _, f := range files {
		if info, err := f.Info(); err == nil && now.Sub(info.ModTime()) > keepOrders {
			_ = os.Remove(filepath.Join(j.Dir, f.Name()))
		}
	}
}
