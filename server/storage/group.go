package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// commitGroup takes the first request and those behind it through one transaction. A transaction that is certain not to
// have been committed is run again, for as long as the database's patience lasts; one that may have been is looked up.
func (w *writer) commitGroup(first *request) {
	pending := []*request{first}
	careful := !w.db.nature.hopeful
	began := time.Now()
	pause := 5 * time.Millisecond
	for try := 0; ; try++ {
		left, err := w.transaction(pending, try == 0, careful)
		if err == nil {
			return
		}
		if errors.Is(err, errWithSavepoints) {
			pending, careful = left, true
			continue
		}
		var d *doubt
		unknown := errors.As(err, &d)
		for unknown && w.wait(began, &pause) {
			committed, lookErr := w.lookUp(d.batch)
			if lookErr != nil {
				continue
			}
			if committed {
				w.settle(left, d.feed)
				return
			}
			unknown = false
		}
		if unknown || !w.again(err, try) || !w.wait(began, &pause) {
			w.refuse(left, err)
			return
		}
		pending = left
	}
}

// errWithSavepoints asks for the same transaction once more: a statement failed that was put off, or a closure after some
// of it had been run, and there was no savepoint to go back to. Savepoints, and statements run one by one, cost round
// trips for each closure; few closures need them.
var errWithSavepoints = errors.New("storage: run again with savepoints")

// again tells whether a transaction that failed so is worth another try. A COMMIT that the database refused is final, and
// who waited for a lock has waited long enough. Where the connection was lost, that is no closure's fault; where it was
// not, one closure was answered with the error already, and the others get a second chance without it.
func (w *writer) again(err error, try int) bool {
	var refused *commitRefused
	if errors.As(err, &refused) || codeIn(err, "database_locked") {
		return false
	}
	return !w.db.nature.blames || try < 2
}

// wait pauses before another try; false when there is to be none.
func (w *writer) wait(began time.Time, pause *time.Duration) bool {
	if time.Since(began) > w.db.nature.patience {
		return false
	}
	timer := time.NewTimer(*pause)
	defer timer.Stop()
	*pause = min(2**pause, 250*time.Millisecond)
	select {
	case <-timer.C:
		return true
	case <-w.closing:
		return false
	}
}

// doubt is that of a COMMIT whose answer was lost.
type doubt struct {
	batch int64
	feed  bool
	error
}

func (d *doubt) Unwrap() error { return d.error }

// commitRefused is a COMMIT that the database answered with an error.
type commitRefused struct{ error }

func (c *commitRefused) Unwrap() error { return c.error }

// settle tells callers that their work is durable, and followers before them: who reads its own write through a cache
// does not wait for the next look.
func (w *writer) settle(done []*request, feed bool) {
	if feed {
		for _, r := range done {
			if r.position > 0 && r.span.IsSampled() {
				w.db.origins.note(r.position, r.span)
			}
		}
		w.db.nudge()
	}
	for _, r := range done {
		r.answer(nil)
	}
}

// refuse fails the requests of a transaction that did not come about, and all that wait by now: each of them would wait
// as long for the same.
func (w *writer) refuse(left []*request, err error) {
	var behind []*request
	for len(behind) < maxQueue {
		r := w.next()
		if r == nil {
			break
		}
		behind = append(behind, r)
	}
	w.db.logger.Error("the database did not take a group of changes", "changes", len(left), "behind", len(behind), "error", err)
	w.db.watch.Refused(fault.Of(err).Code, len(left)+len(behind))
	for _, r := range left {
		r.answer(err)
	}
	var d *doubt
	if errors.As(err, &d) { // there is none about these
		err = fault.New(fault.Unavailable, "database_unreachable", "the database went away; nothing was written").
			WithHint("try again").WithCause(d.error)
	}
	for _, r := range behind {
		if r.state.CompareAndSwap(waiting, started) {
			r.answer(err)
		}
	}
}

// transaction runs the pending closures, and where take is set those that arrive meanwhile, in one transaction. On an
// error, left are those without an answer. Nothing of them was committed, unless the error is a doubt.
func (w *writer) transaction(pending []*request, take, careful bool) (left []*request, err error) {
	tx, cancel, err := w.begin(careful)
	if err != nil {
		return pending, err
	}
	defer cancel()
	var done []*request
	first := tx
	start := time.Now()
	defer func() { w.db.watch.Held(time.Since(start)) }()
	for i := 0; ; i++ {
		var r *request
		switch {
		case i < len(pending):
			r = pending[i]
		case !take || i >= maxBatch || time.Since(start) > batchTime:
		default:
			r = w.next()
		}
		if r == nil {
			break
		}
		if !r.state.CompareAndSwap(waiting, started) && r.state.Load() == abandoned {
			continue
		}
		next := tx.another()
		failure := w.one(next, r, careful)
		after := pending[min(i+1, len(pending)):]
		switch broken := w.line.broken; {
		case broken != nil && w.db.nature.blames:
			r.answer(failure)
			w.rollback()
			return append(done, after...), broken
		case broken != nil:
			w.rollback()
			return append(append(done, r), after...), broken
		case errors.Is(failure, errWithSavepoints):
			w.rollback()
			return append(append(done, r), after...), failure
		case failure != nil:
			r.answer(failure)
		default:
			if r.position = 0; next.feed != tx.feed {
				r.position = next.feed
			}
			tx = next
			done = append(done, r)
		}
	}
	if tx.feed == first.feed && tx.entries == first.entries && !tx.touched {
		w.rollback() // nothing was changed
		w.settle(done, false)
		return nil, nil
	}
	feed := tx.feed != first.feed
	committing := time.Now()
	if err := w.db.engine.commit(w.line, tx, w.id, w.batch); err != nil {
		w.rollback()
		var d *doubt
		if errors.As(err, &d) {
			d.feed = feed
		}
		return done, err
	}
	w.db.watch.Committed(time.Since(committing), len(done))
	w.settle(done, feed)
	return nil, nil
}

// next is a request that waits already; nil where none does.
func (w *writer) next() *request {
	select {
	case r := <-w.queue:
		return r
	default:
		return nil
	}
}

// begin opens a transaction as the only writer; a careful one with a savepoint for the first closure.
func (w *writer) begin(careful bool) (*Tx, context.CancelFunc, error) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if limit := w.db.nature.batchLimit; limit > 0 {
		ctx, cancel = context.WithTimeout(ctx, limit)
	}
	if w.line == nil {
		conn, err := w.db.writes.Conn(ctx)
		if err != nil {
			cancel()
			return nil, nil, w.db.engine.explain(err)
		}
		w.line = &line{engine: w.db.engine, conn: conn, unnamed: w.db.nature.unnamed}
		w.line.forget()
	}
	w.line.ctx, w.line.broken = ctx, nil
	w.line.defers, w.line.deferred, w.line.runs = !careful, nil, 0
	w.batch++
	tx := &Tx{db: w.db, work: &work{line: w.line, over: true}}
	var err error
	tx.feed, tx.entries, err = w.db.engine.begin(w.line)
	if err == nil && careful {
		err = w.line.script("SAVEPOINT closure")
	}
	if err != nil {
		w.rollback()
		cancel()
		return nil, nil, err
	}
	return tx, cancel, nil
}

// rollback ends a transaction that is not to be. A broken connection goes with it, unless it is known to be none of the
// connection's doing: on a full disk there may be no room to open another.
func (w *writer) rollback() {
	broken := w.line.broken
	w.line.broken = nil
	err := w.line.script("ROLLBACK") // fails where the database has rolled back by itself
	kept := broken == nil && err == nil || codeIn(broken, "database_full", "database_locked")
	w.line.broken = nil
	if !kept {
		w.line.close()
		w.line = nil
	}
}

func codeIn(err error, codes ...string) bool {
	return err != nil && slices.Contains(codes, fault.Of(err).Code)
}

// lookUp finds out what became of a batch whose COMMIT was not answered. It waits for the write lock: once that is held,
// the batch has ended one way or the other.
func (w *writer) lookUp(batch int64) (committed bool, err error) {
	_, cancel, err := w.begin(false)
	if err != nil {
		return false, err
	}
	defer cancel()
	defer w.rollback()
	return w.db.engine.committed(w.line, w.id, batch)
}

// one runs a closure, where careful within its savepoint, and leaves a savepoint for the next one.
func (w *writer) one(tx *Tx, r *request, careful bool) error {
	runs := w.line.runs
	w.line.mark = len(w.line.deferred)
	began := time.Now()
	err := w.call(tx, r)
	if took := time.Since(began); took > slowChange {
		w.db.logger.Warn("a change held up all others", "change", nameOf(r.change), "took", took, "roundTrips", w.line.runs-runs)
	}
	tx.work.over = true
	switch {
	case w.line.broken != nil:
		return w.line.broken
	case careful && err == nil:
		return w.db.engine.next(w.line)
	case careful:
		if undo := w.line.script("ROLLBACK TO SAVEPOINT closure"); undo != nil && w.line.broken == nil {
			w.line.broken = undo
		}
		return err
	case err == nil:
		return nil
	case w.line.runs != runs || tx.work.bad != nil:
		return errWithSavepoints
	}
	w.line.deferred = w.line.deferred[:w.line.mark]
	return err
}

// slowChange is how long a closure may run before it is named in the log: every other write of the deployment waits for it.
const slowChange = time.Second

// nameOf is the function that a closure was written in.
func nameOf(change func(*Tx) error) string {
	name := runtime.FuncForPC(reflect.ValueOf(change).Pointer()).Name()
	return name[strings.LastIndexByte(name, '/')+1:]
}

func (w *writer) call(tx *Tx, r *request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.db.logger.Error("a change panicked and was rolled back", "panic", p, slog.String("stack", string(debug.Stack())))
			err = fault.New(fault.Internal, "storage_panic", "internal error").WithCause(fmt.Errorf("panic in a transaction: %v", p))
		}
	}()
	if err := r.change(tx); err != nil {
		return err
	}
	if tx.work.bad != nil {
		return tx.work.bad
	}
	if r.audited && tx.changed && !tx.audited {
		return errUnaudited
	}
	return nil
}

var errUnaudited = fault.New(fault.Internal, "storage_unaudited", "a change without an audit entry was refused")
