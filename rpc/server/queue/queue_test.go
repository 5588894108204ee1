package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"
)

// many is a rate that no test reaches.
var many = Bounds{Concurrency: 1, Waiting: 1000, Rate: 1 << 30, Per: time.Minute}

func bounds(concurrency, waiting int) Bounds {
	b := many
	b.Concurrency, b.Waiting = concurrency, waiting
	return b
}

// clock is a time that only a test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newWithClock(capacity int) (*Queue, *clock) {
	q, c := New(capacity), &clock{t: time.Unix(1e9, 0)}
	q.now = c.now
	return q, c
}

func acquire(t testing.TB, q *Queue, uid uint32, b Bounds) func() {
	t.Helper()
	release, err := q.Acquire(context.Background(), uid, b)
	assert.NilError(t, err)
	return release
}

func busy(t testing.TB, q *Queue, uid uint32, b Bounds) *BusyError {
	t.Helper()
	release, err := q.Acquire(context.Background(), uid, b)
	assert.Check(t, release == nil)
	var e *BusyError
	assert.Assert(t, errors.As(err, &e), "%v", err)
	return e
}

// waits until so many wait in all.
func waits(t testing.TB, q *Queue, n int) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if _, waiting, _, _ := q.Load(0); waiting != n {
			return poll.Continue("%d wait, not %d", waiting, n)
		}
		return poll.Success()
	}, poll.WithDelay(100*time.Microsecond))
}

func checkLoad(t testing.TB, q *Queue, uid uint32, want ...int) {
	t.Helper()
	running, waiting, usersRunning, usersWaiting := q.Load(uid)
	assert.DeepEqual(t, []int{running, waiting, usersRunning, usersWaiting}, want)
}

// Under load neither a user's concurrency nor the capacity is exceeded, and
// what there is less of is used to the full.
func TestConcurrencyIsExact(t *testing.T) {
	const users, each = 3, 300
	concurrency := [users]int64{1, 2, 4}
	for _, capacity := range []int64{5, 7, 100} {
		q := New(int(capacity))
		var all, most atomic.Int64
		var running, mosts [users]atomic.Int64
		raise := func(most *atomic.Int64, n int64) {
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
		}
		var wg sync.WaitGroup
		for range each {
			for user := range users {
				wg.Go(func() {
					release, err := q.Acquire(context.Background(), uint32(user), bounds(int(concurrency[user]), each))
					if err != nil {
						t.Error(err)
						return
					}
					raise(&most, all.Add(1))
					raise(&mosts[user], running[user].Add(1))
					time.Sleep(100 * time.Microsecond)
					running[user].Add(-1)
					all.Add(-1)
					release()
				})
			}
		}
		wg.Wait()
		assert.Equal(t, most.Load(), min(capacity, 7))
		for user := range users {
			assert.Check(t, mosts[user].Load() <= concurrency[user], "user %d: %d", user, mosts[user].Load())
			assert.Check(t, capacity < 7 || mosts[user].Load() == concurrency[user], "user %d: %d", user, mosts[user].Load())
		}
		checkLoad(t, q, 0, 0, 0, 0, 0)
		assert.Equal(t, len(q.turns), 0)
	}
}

func TestWaitingIsBounded(t *testing.T) {
	q := New(10)
	b := bounds(1, 2)
	release := acquire(t, q, 7, b)
	done := make(chan func(), 2)
	for range 2 {
		go func() {
			r, err := q.Acquire(context.Background(), 7, b)
			assert.Check(t, err)
			done <- r
		}()
	}
	waits(t, q, 2)
	e := busy(t, q, 7, b)
	assert.Equal(t, e.Bound, "queue")
	assert.Error(t, e, "1 executions are running and 2 waiting")
	assert.Check(t, e.RetryAfter > 0)
	checkLoad(t, q, 7, 1, 2, 1, 2)

	// Another user has a queue of its own.
	acquire(t, q, 8, b)()

	release()
	r := <-done
	checkLoad(t, q, 7, 1, 1, 1, 1)
	r()
	(<-done)()
	checkLoad(t, q, 7, 0, 0, 0, 0)
}

func TestNoQueueAtAll(t *testing.T) {
	q := New(2)
	release := acquire(t, q, 1, bounds(1, 0))
	assert.Equal(t, busy(t, q, 1, bounds(1, 0)).Bound, "queue")
	// The capacity that others use up makes one wait, too.
	other := acquire(t, q, 2, bounds(1, 0))
	assert.Equal(t, busy(t, q, 3, bounds(1, 0)).Bound, "queue")
	release()
	acquire(t, q, 3, bounds(1, 0))()
	other()
}

// Refusals leave no trace: they count neither as running nor for the rate.
func TestRefusalsCostNothing(t *testing.T) {
	q, _ := newWithClock(1)
	b := Bounds{Concurrency: 1, Waiting: 0, Rate: 2, Per: time.Minute}
	release := acquire(t, q, 1, b)
	for range 100 {
		assert.Equal(t, busy(t, q, 1, b).Bound, "queue")
	}
	release()
	acquire(t, q, 1, b)()
	assert.Equal(t, busy(t, q, 1, b).Bound, "rate")
}

// In no span of Per are more than Rate accepted, and not fewer than could be.
func TestRateIsExact(t *testing.T) {
	q, clock := newWithClock(100)
	b := Bounds{Concurrency: 100, Waiting: 100, Rate: 10, Per: time.Minute}
	var accepted []time.Time
	for range 2000 {
		release, err := q.Acquire(context.Background(), 1, b)
		now := clock.now()
		within := 0
		for _, at := range accepted {
			if now.Sub(at) < b.Per {
				within++
			}
		}
		if err == nil {
			assert.Assert(t, within < b.Rate, "%d in a minute", within+1)
			accepted = append(accepted, now)
			release()
		} else {
			assert.Assert(t, within == b.Rate, "refused after %d in a minute", within)
		}
		clock.advance(1237 * time.Millisecond)
	}
	// 10 in each of the 41 minutes.
	assert.Check(t, len(accepted) >= 405, "%d", len(accepted))
}

func TestRateRetryHint(t *testing.T) {
	q, clock := newWithClock(10)
	b := Bounds{Concurrency: 10, Waiting: 10, Rate: 3, Per: time.Minute}
	for range 3 {
		acquire(t, q, 1, b)()
		clock.advance(5 * time.Second)
	}
	e := busy(t, q, 1, b)
	assert.Error(t, e, "more than 3 executions in 1m0s")
	assert.Equal(t, e.RetryAfter, 45*time.Second)
	acquire(t, q, 2, b)() // another user's rate is another

	// The hint is right to the nanosecond.
	clock.advance(e.RetryAfter - 1)
	assert.Equal(t, busy(t, q, 1, b).RetryAfter, time.Nanosecond)
	clock.advance(1)
	acquire(t, q, 1, b)()
	assert.Equal(t, busy(t, q, 1, b).RetryAfter, 5*time.Second)

	// A lower rate, after a reload, counts what was accepted under the higher:
	// the last starts were 10 and 5 seconds ago and now, and one may be left.
	b.Rate = 1
	assert.Equal(t, busy(t, q, 1, b).RetryAfter, time.Minute)
}

// One of a user that waits for the first time is behind at most one of a user
// that floods.
func TestUsersTakeTurns(t *testing.T) {
	const a, b = 1, 2
	q := New(1)
	release := acquire(t, q, a, bounds(1, 1000))
	order := make(chan uint32)
	wait := func(uid uint32) {
		r, err := q.Acquire(context.Background(), uid, bounds(1, 1000))
		if err == nil {
			order <- uid
			r()
		}
	}
	for i := range 50 {
		go wait(a)
		waits(t, q, i+1)
	}
	go wait(b)
	waits(t, q, 51)
	release()
	var seen []uint32
	for range 51 {
		seen = append(seen, <-order)
	}
	assert.Check(t, seen[0] == b || seen[1] == b, "%v", seen)
}

// As many users as there are wait no more than a round for their turn.
func TestManyUsersTakeTurns(t *testing.T) {
	const users, each = 5, 6
	q := New(1)
	release := acquire(t, q, 99, many)
	order := make(chan uint32)
	n := 0
	for user := range uint32(users) {
		for range each {
			go func() {
				r, err := q.Acquire(context.Background(), user, many)
				if err == nil {
					order <- user
					r()
				}
			}()
			n++
			waits(t, q, n)
		}
	}
	release()
	for range each {
		round := map[uint32]bool{}
		for range users {
			round[<-order] = true
		}
		assert.Equal(t, len(round), users)
	}
}

// A user whose waiters cannot run for its own concurrency neither blocks
// others nor loses its turn for good.
func TestNoStarvationAtOnesConcurrency(t *testing.T) {
	const slow, quick = 1, 2
	q := New(2)
	held := acquire(t, q, slow, bounds(1, 100))
	first := acquire(t, q, quick, bounds(2, 100))
	order := make(chan uint32, 100)
	releases := make(chan func(), 100)
	wait := func(uid uint32, b Bounds) {
		r, err := q.Acquire(context.Background(), uid, b)
		assert.Check(t, err)
		order <- uid
		releases <- r
	}
	for i := range 3 {
		go wait(slow, bounds(1, 100))
		waits(t, q, 2*i+1)
		go wait(quick, bounds(2, 100))
		waits(t, q, 2*i+2)
	}
	// slow is first in turn, but at its concurrency: quick goes on.
	first()
	assert.Equal(t, <-order, uint32(quick))
	(<-releases)()
	assert.Equal(t, <-order, uint32(quick))
	// As soon as slow may run again it is at most one behind.
	held()
	a := <-order
	if a != slow {
		(<-releases)()
		a = <-order
	}
	assert.Equal(t, a, uint32(slow))
	for range 3 {
		select {
		case r := <-releases:
			r()
		case <-time.After(10 * time.Second):
			t.Fatal("starved")
		}
	}
	for range 2 {
		(<-releases)()
	}
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if running, waiting, _, _ := q.Load(slow); running+waiting > 1 {
			return poll.Continue("%d running, %d waiting", running, waiting)
		}
		return poll.Success()
	})
	for len(releases) > 0 {
		(<-releases)()
	}
	checkLoad(t, q, slow, 0, 0, 0, 0)
}

// A higher concurrency (after a reload) is used by those that wait already.
func TestRaisedConcurrency(t *testing.T) {
	q := New(10)
	release := acquire(t, q, 1, bounds(1, 10))
	got := make(chan func(), 2)
	for i := range 2 {
		b := bounds(1, 10)
		if i == 1 {
			b.Concurrency = 3
		}
		go func() {
			r, err := q.Acquire(context.Background(), 1, b)
			assert.Check(t, err)
			got <- r
		}()
		if i == 0 {
			waits(t, q, 1)
		}
	}
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if len(got) < 2 {
			return poll.Continue("%d of 2 run", len(got))
		}
		return poll.Success()
	}, poll.WithTimeout(2*time.Second))
	release()
	(<-got)()
	(<-got)()
}

func TestContextEndsWaiting(t *testing.T) {
	q := New(10)
	release := acquire(t, q, 1, many)
	why := errors.New("client went away")
	ctx, cancel := context.WithCancelCause(context.Background())
	failed := make(chan error)
	go func() {
		_, err := q.Acquire(ctx, 1, many)
		failed <- err
	}()
	waits(t, q, 1)
	// One behind the one that gives up.
	next := make(chan func())
	go func() {
		r, err := q.Acquire(context.Background(), 1, many)
		assert.Check(t, err)
		next <- r
	}()
	waits(t, q, 2)
	cancel(why)
	assert.Check(t, errors.Is(<-failed, why))
	checkLoad(t, q, 1, 1, 1, 1, 1)
	release()
	(<-next)()
	checkLoad(t, q, 1, 0, 0, 0, 0)
	assert.Equal(t, len(q.turns), 0)
}

func TestReleaseTwice(t *testing.T) {
	q := New(1)
	release := acquire(t, q, 1, many)
	release()
	release()
	checkLoad(t, q, 1, 0, 0, 0, 0)
	acquire(t, q, 1, many)()
}

// Whoever wins, cancel or admission, nothing is counted twice or forgotten.
func TestCancelRacesWithAdmission(t *testing.T) {
	q := New(1)
	var admitted, gaveUp int
	for i := range 5000 {
		release := acquire(t, q, 1, many)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan bool)
		uid := uint32(1 + i%2)
		go func() {
			r, err := q.Acquire(ctx, uid, many)
			if err == nil {
				r()
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			done <- err == nil
		}()
		for {
			if _, waiting, _, _ := q.Load(0); waiting == 1 {
				break
			}
			time.Sleep(time.Microsecond)
		}
		if i%2 == 0 {
			go cancel()
			release()
		} else {
			go release()
			cancel()
		}
		if <-done {
			admitted++
		} else {
			gaveUp++
		}
		cancel()
		if i%2 == 1 {
			for { // the release runs on its own
				if running, _, _, _ := q.Load(0); running == 0 {
					break
				}
				time.Sleep(time.Microsecond)
			}
		}
		running, waiting, _, _ := q.Load(0)
		assert.Assert(t, running == 0 && waiting == 0, "%d: %d running, %d waiting", i, running, waiting)
		assert.Assert(t, len(q.turns) == 0)
	}
	t.Logf("%d admitted, %d gave up", admitted, gaveUp)
	// One that was admitted although its context ended can still be released.
	acquire(t, q, 1, many)()
}

func TestCloseReleasesWaiters(t *testing.T) {
	q := New(2)
	releases := []func(){acquire(t, q, 1, many), acquire(t, q, 2, many)}
	failed := make(chan error)
	for i := range 6 {
		go func() {
			_, err := q.Acquire(context.Background(), uint32(1+i%3), many)
			failed <- err
		}()
	}
	waits(t, q, 6)
	q.Close()
	for range 6 {
		assert.Equal(t, <-failed, ErrClosed)
	}
	_, err := q.Acquire(context.Background(), 1, many)
	assert.Equal(t, err, ErrClosed)
	_, err = q.Acquire(context.Background(), 9, many)
	assert.Equal(t, err, ErrClosed)
	checkLoad(t, q, 1, 2, 0, 1, 0) // what runs goes on
	for _, r := range releases {
		r()
	}
	checkLoad(t, q, 1, 0, 0, 0, 0)
	q.Close()
}

func TestCloseRacesWithEverything(t *testing.T) {
	for range 200 {
		q := New(2)
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*10*time.Microsecond)
				defer cancel()
				release, err := q.Acquire(ctx, uint32(i%3), many)
				switch {
				case err == nil:
					release()
				case errors.Is(err, ErrClosed), errors.Is(err, context.DeadlineExceeded):
				default:
					t.Error(err)
				}
			})
		}
		wg.Go(q.Close)
		wg.Wait()
		checkLoad(t, q, 0, 0, 0, 0, 0)
	}
}

// A user that was refused, or gave up, before it ran leaves nothing.
func TestUsersWithoutARecordAreForgotten(t *testing.T) {
	q, clock := newWithClock(1)
	release := acquire(t, q, 1, many)
	busy(t, q, 2, bounds(1, 0))
	assert.Equal(t, len(q.users), 1)
	clock.advance(many.Per)
	release()
	assert.Equal(t, len(q.users), 0)
}

// Users whose time has passed are forgotten although they do not come back:
// the process lives for months and users come and go.
func TestIdleUsersAreForgotten(t *testing.T) {
	q, clock := newWithClock(4)
	for uid := range uint32(1000) {
		acquire(t, q, uid, many)()
	}
	clock.advance(2 * many.Per)
	acquire(t, q, 5000, many)()
	clock.advance(2 * many.Per)
	acquire(t, q, 5001, many)()
	q.mu.Lock()
	defer q.mu.Unlock()
	assert.Check(t, len(q.users) <= 1, "%d users are remembered", len(q.users))
}

func BenchmarkAcquire(b *testing.B) {
	for _, users := range []int{1, 100} {
		b.Run(fmt.Sprintf("users=%d", users), func(b *testing.B) {
			q := New(users)
			bound := Bounds{Concurrency: 1, Waiting: 1, Rate: 1 << 30, Per: time.Millisecond}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				release, err := q.Acquire(context.Background(), uint32(i%users), bound)
				if err != nil {
					b.Fatal(err)
				}
				release()
			}
		})
	}
}
