package operation_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	noun "github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/operation"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/test/plane"
)

const work noun.Kind = "test.work"

func store(p *plane.Plane) operation.Store {
	return storage.Bind[operation.Reader, operation.Tx](p.DB)
}

// asked makes an operation as a slice would.
func asked(t *testing.T, p *plane.Plane, kind noun.Kind, steps ...string) noun.Operation {
	t.Helper()
	o := noun.Operation{
		Meta: tenant.Meta{ID: id.New("op", p.Clock.Now()), Name: string(kind)}, Kind: kind, Scope: p.Workspace.Scope(), State: noun.Pending, Actor: "key_admin",
	}
	for _, s := range steps {
		o.Steps = append(o.Steps, noun.Step{Name: s, State: noun.Pending})
	}
	err := store(p).Write(t.Context(), func(tx operation.Tx) error {
		var err error
		if o, err = tx.PutOperation(t.Context(), o); err != nil {
			return err
		}
		return tx.Audit(t.Context(), audit.Of(plane.Admin, "test.ask", o.Scope, o.ID, o.Name))
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// worker runs until the test ends or stop is called, which waits for it.
func worker(t *testing.T, p *plane.Plane, owner string, o operation.Options, handler operation.Handler) (stop func()) {
	t.Helper()
	o.Store, o.Owner, o.Now, o.Logger = store(p), owner, p.Clock.Now, slog.New(slog.DiscardHandler)
	o.Every = 5 * time.Millisecond
	if handler != nil {
		o.Handlers = map[noun.Kind]operation.Handler{work: handler}
	}
	w := operation.NewWorker(o)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() { // a hint that is always wrong must do no harm
		for ctx.Err() == nil {
			at, err := p.DB.Position(ctx)
			if err == nil {
				list, err := p.DB.Changes(ctx, max(at-20, 0), 100)
				if err == nil {
					w.Apply(list)
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); running.Wait() }) }
	t.Cleanup(stop)
	return stop
}

func until(t *testing.T, p *plane.Plane, o noun.Operation, what string, is func(noun.Operation) bool) noun.Operation {
	t.Helper()
	late := time.Now().Add(20 * time.Second)
	for {
		now, err := p.DB.View().Operation(t.Context(), o.ID)
		if err != nil {
			t.Fatal(err)
		}
		if is(now) {
			return now
		}
		if time.Now().After(late) {
			t.Fatalf("operation is %+v after 20 s, want %s", now, what)
		}
		time.Sleep(2 * time.Millisecond) // asking again, not waiting for something to have happened
	}
}

func ended(t *testing.T, p *plane.Plane, o noun.Operation) noun.Operation {
	t.Helper()
	return until(t, p, o, "ended", func(o noun.Operation) bool { return o.State.Ended() })
}

func TestStepsAreSeenAndNotRepeated(t *testing.T) {
	p := plane.New(t)
	o := asked(t, p, work, "one", "two")
	var ones, twos atomic.Int64
	worker(t, p, "a", operation.Options{}, func(ctx context.Context, task *operation.Task) error {
		if err := task.Step(ctx, "one", func(context.Context) (string, error) { ones.Add(1); return "did it", nil }); err != nil {
			return err
		}
		return task.Step(ctx, "two", func(context.Context) (string, error) {
			if twos.Add(1) < 3 {
				return "", fault.New(fault.Unavailable, "not_yet", "not yet")
			}
			return "", task.Progress(ctx, "two", 1, 2, "half of it")
		})
	})
	done := until(t, p, o, "ended", func(o noun.Operation) bool {
		if o.LeaseOwner == "" && o.LeaseUntil.After(p.Clock.Now()) {
			p.Clock.Pass(o.LeaseUntil.Sub(p.Clock.Now())) // it rests after it could not go on
		}
		return o.State.Ended()
	})
	if ones.Load() != 1 || twos.Load() != 3 {
		t.Errorf("step one ran %d times, two %d times, want 1 and 3", ones.Load(), twos.Load())
	}
	if done.State != noun.Succeeded || done.Progress != 1 || done.ErrorCode != "" || done.Steps[0].Message != "did it" || done.EndedAt.IsZero() {
		t.Errorf("operation %+v, want succeeded", done)
	}
}

func TestFailures(t *testing.T) {
	p := plane.New(t)
	for name, c := range map[string]struct {
		handler operation.Handler
		code    string
	}{
		"an error": {func(ctx context.Context, task *operation.Task) error {
			return task.Step(ctx, "one", func(context.Context) (string, error) {
				return "", fault.New(fault.Precondition, "cannot", "it cannot be done")
			})
		}, "cannot"},
		"a panic": {func(context.Context, *operation.Task) error { panic("oh") }, "internal"},
		"never ready": {func(context.Context, *operation.Task) error {
			return fault.New(fault.Unavailable, "not_yet", "not yet")
		}, "not_yet"},
		"no kind like this": {nil, "operation_kind_unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			o := asked(t, p, work, "one")
			stop := worker(t, p, "a", operation.Options{Attempts: 1}, c.handler)
			defer stop()
			done := ended(t, p, o)
			if done.State != noun.Failed || done.ErrorCode != c.code {
				t.Errorf("got %s with %q, want failed with %q", done.State, done.ErrorCode, c.code)
			}
		})
	}
}

func TestAReplicaThatStopsHandsItsWorkBack(t *testing.T) {
	p := plane.New(t)
	o := asked(t, p, work, "one")
	begun := make(chan struct{})
	stop := worker(t, p, "a", operation.Options{}, func(ctx context.Context, task *operation.Task) error {
		return task.Step(ctx, "one", func(ctx context.Context) (string, error) {
			close(begun)
			<-ctx.Done()
			return "", ctx.Err()
		})
	})
	<-begun
	stop()
	now, err := p.DB.View().Operation(t.Context(), o.ID)
	if err != nil || now.State != noun.Running || now.LeaseOwner != "" || now.LeaseUntil.After(p.Clock.Now()) {
		t.Fatalf("after the stop: %+v, %v, want running and free", now, err)
	}
	worker(t, p, "b", operation.Options{}, func(ctx context.Context, task *operation.Task) error {
		return task.Step(ctx, "one", func(context.Context) (string, error) { return "by b", nil })
	})
	if done := ended(t, p, o); done.State != noun.Succeeded || done.Attempt != 2 || done.Steps[0].Message != "by b" {
		t.Errorf("operation %+v, want done by b in the second attempt", done)
	}
}

// TestAReplicaThatWasPausedChangesNothing lets a lease run out while its holder cannot renew it.
func TestAReplicaThatWasPausedChangesNothing(t *testing.T) {
	p := plane.New(t)
	o := asked(t, p, work, "one")
	begun, woken := make(chan struct{}), make(chan struct{})
	outcome := make(chan error, 1)
	// Its lease is renewed so rarely that it never is: to the others that looks like a pause.
	worker(t, p, "paused", operation.Options{Lease: 10 * time.Hour, Concurrency: 1}, func(ctx context.Context, task *operation.Task) error {
		close(begun)
		<-woken
		err := task.Step(context.WithoutCancel(ctx), "one", func(context.Context) (string, error) { return "by the one that was paused", nil })
		outcome <- err
		return err
	})
	<-begun
	p.Clock.Pass(11 * time.Hour)
	worker(t, p, "b", operation.Options{Lease: time.Hour}, func(ctx context.Context, task *operation.Task) error {
		return task.Step(ctx, "one", func(context.Context) (string, error) { return "by b", nil })
	})
	ended(t, p, o)
	close(woken)
	if err := <-outcome; fault.KindOf(err) != fault.Conflict {
		t.Errorf("the paused replica got %v, want a conflict", err)
	}
	if now := ended(t, p, o); now.Steps[0].Message != "by b" || now.State != noun.Succeeded {
		t.Errorf("operation %+v, want as b left it", now)
	}
}

// TestALostAttemptEndsBeforeTheNextOne lets one worker lose a lease and lease the same operation again.
func TestALostAttemptEndsBeforeTheNextOne(t *testing.T) {
	p := plane.New(t)
	o := asked(t, p, work, "one")
	var attempts atomic.Int64
	first := make(chan error, 1)
	begun := make(chan struct{})
	worker(t, p, "a", operation.Options{Lease: 10 * time.Hour}, func(ctx context.Context, task *operation.Task) error {
		if attempts.Add(1) == 1 {
			close(begun)
			<-ctx.Done()
			first <- task.Step(context.WithoutCancel(ctx), "one", func(context.Context) (string, error) { return "by the first", nil })
			return nil
		}
		return task.Step(ctx, "one", func(context.Context) (string, error) { return "by the second", nil })
	})
	<-begun
	p.Clock.Pass(11 * time.Hour)
	if err := <-first; fault.KindOf(err) != fault.Conflict {
		t.Errorf("the first attempt got %v, want a conflict", err)
	}
	if done := ended(t, p, o); done.State != noun.Succeeded || done.Steps[0].Message != "by the second" || attempts.Load() != 2 {
		t.Errorf("operation %+v after %d attempts, want done by the second", done, attempts.Load())
	}
}

func TestALeaseIsRenewed(t *testing.T) {
	p := plane.New(t)
	o := asked(t, p, work, "one")
	release := make(chan struct{})
	var began atomic.Int64
	handler := func(ctx context.Context, task *operation.Task) error {
		began.Add(1)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	worker(t, p, "a", operation.Options{Lease: 60 * time.Millisecond}, handler)
	first := until(t, p, o, "leased", func(o noun.Operation) bool { return o.LeaseOwner == "a" })
	for range 20 {
		p.Clock.Pass(20 * time.Millisecond)
		first = until(t, p, o, "renewed", func(o noun.Operation) bool {
			return o.LeaseUntil.After(first.LeaseUntil) || o.Revision > first.Revision
		})
	}
	worker(t, p, "b", operation.Options{Lease: 60 * time.Millisecond}, handler)
	close(release)
	if done := ended(t, p, o); done.Attempt != 1 || began.Load() != 1 {
		t.Errorf("%d attempts, begun %d times, want one", done.Attempt, began.Load())
	}
}

// Its hosts are told at the very start that they are removed, and believe it.
func TestARevocationIsNotCancelledHalfWay(t *testing.T) {
	p := plane.New(t)
	o := asked(t, p, noun.RevokeToken, "one")
	if _, err := p.Operations.Cancel(plane.AsAdmin(t.Context()), o.ID); fault.Of(err).Code != "operation_not_cancellable" {
		t.Errorf("cancelling a revocation: %v, want operation_not_cancellable", err)
	}
}

func TestCancelling(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	o := asked(t, p, work, "one", "two")
	begun, stopped := make(chan struct{}), make(chan error, 1)
	worker(t, p, "a", operation.Options{}, func(ctx context.Context, task *operation.Task) error {
		close(begun)
		<-ctx.Done() // ends because of the cancellation
		stopped <- task.Step(context.WithoutCancel(ctx), "one", func(context.Context) (string, error) { return "too late", nil })
		return nil
	})
	<-begun
	stranger := plane.As(t.Context(), "stranger", p.Other.Scope(), access.All)
	if _, err := p.Operations.Cancel(stranger, o.ID); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a stranger cancelling: %v, want not found", err)
	}
	reader := plane.As(t.Context(), "reader", p.Workspace.Scope(), noun.Read)
	if _, err := p.Operations.Cancel(reader, o.ID); fault.KindOf(err) != fault.Denied {
		t.Errorf("a reader cancelling: %v, want denied", err)
	}
	got, err := p.Operations.Cancel(ctx, o.ID)
	if err != nil || got.State != noun.Cancelled || got.Steps[1].State != noun.Cancelled {
		t.Fatalf("got %+v, %v, want cancelled", got, err)
	}
	if err := <-stopped; fault.KindOf(err) != fault.Conflict {
		t.Errorf("the worker went on: %v, want a conflict", err)
	}
	if now := ended(t, p, o); now.State != noun.Cancelled || now.Steps[0].Message != "" {
		t.Errorf("operation %+v, want cancelled", now)
	}
	if _, err := p.Operations.Cancel(ctx, o.ID); fault.KindOf(err) != fault.Precondition {
		t.Errorf("cancelling again: %v, want a precondition", err)
	}
	if n := len(p.Entries(t, noun.Cancel)); n != 1 {
		t.Errorf("%d audit entries, want 1", n)
	}
}

func TestManyWorkersDoEachOperationOnce(t *testing.T) {
	p := plane.New(t)
	const operations = 60
	var mu sync.Mutex
	done := map[string]int{}
	var all []noun.Operation
	for range operations {
		all = append(all, asked(t, p, work))
	}
	for _, owner := range []string{"a", "b", "c"} {
		worker(t, p, owner, operation.Options{Concurrency: 4}, func(_ context.Context, task *operation.Task) error {
			mu.Lock()
			defer mu.Unlock()
			done[task.Operation().ID]++
			return nil
		})
	}
	for _, o := range all {
		if now := ended(t, p, o); now.Attempt != 1 {
			t.Errorf("operation %s took %d attempts, want 1", o.ID, now.Attempt)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, o := range all {
		if done[o.ID] != 1 {
			t.Errorf("operation %s was done %d times, want once", o.ID, done[o.ID])
		}
	}
}

func TestLookingCostsNoTransaction(t *testing.T) {
	p := plane.New(t)
	o := asked(t, p, work)
	worker(t, p, "a", operation.Options{}, func(context.Context, *operation.Task) error { return nil })
	ended(t, p, o)
	before, err := p.DB.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := asked(t, p, work) // after it was looked for a few times in vain
	ended(t, p, next)
	after, err := p.DB.Position(t.Context())
	if err != nil || after-before != 3 {
		t.Errorf("one operation made %d changes, %v, want 3: asked, leased, ended", after-before, err)
	}
}

func TestWaiting(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	p.Run(t)
	o := asked(t, p, "unknown.kind")
	if got, err := p.Operations.Wait(ctx, o.ID, 30*time.Millisecond); err != nil || got.State.Ended() {
		t.Errorf("got %+v, %v, want it as it is", got, err)
	}
	if _, err := p.Operations.Wait(ctx, o.ID, time.Hour); fault.KindOf(err) != fault.Invalid {
		t.Errorf("waiting for an hour: %v, want invalid", err)
	}
	if _, err := p.Operations.Wait(plane.As(ctx, "x", p.Other.Scope(), access.All), o.ID, 0); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a stranger waiting: %v, want not found", err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := p.Operations.Wait(short, o.ID, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v, want %v", err, context.Canceled)
	}
	const waiters = 500
	began := time.Now()
	var waiting sync.WaitGroup
	for range waiters {
		waiting.Go(func() {
			if got, err := p.Operations.Wait(ctx, o.ID, time.Minute); err != nil || got.State != noun.Cancelled {
				t.Errorf("got %+v, %v, want cancelled", got, err)
			}
		})
	}
	if _, err := p.Operations.Cancel(ctx, o.ID); err != nil {
		t.Fatal(err)
	}
	waiting.Wait()
	t.Logf("%d waiters told after %s", waiters, time.Since(began))
}

func TestListing(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	o := asked(t, p, work)
	list, _, err := p.Operations.List(ctx, "prod", noun.Query{States: []noun.State{noun.Pending}})
	if err != nil || len(list) != 1 || list[0].ID != o.ID {
		t.Errorf("got %v, %v, want the operation", list, err)
	}
	if list, _, err := p.Operations.List(ctx, "lab", noun.Query{}); err != nil || len(list) != 0 {
		t.Errorf("in the other workspace: %v, %v, want none", list, err)
	}
	if _, _, err := p.Operations.List(ctx, "", noun.Query{States: []noun.State{"odd"}}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an unknown state: %v, want invalid", err)
	}
}
