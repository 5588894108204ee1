// Package queue admits executions: so many at a time in all, so many at a time
// for each user, so many waiting, so many in a time. Waiting users take turns.
package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Bounds of one user.
type Bounds struct {
	// Concurrency is how many may run at a time, Waiting how many may wait.
	Concurrency, Waiting int
	// At most Rate executions are accepted, to run or to wait, in any span of
	// Per.
	Rate int
	Per  time.Duration
}

// A BusyError says that a bound is reached. The request was not queued.
type BusyError struct {
	// Bound is "queue" or "rate".
	Bound      string
	Reason     string
	RetryAfter time.Duration
}

func (e *BusyError) Error() string { return e.Reason }

// ErrClosed says that the Queue admits nobody any more.
var ErrClosed = errors.New("queue is closed")

// A Queue is safe for concurrent use.
type Queue struct {
	capacity int
	now      func() time.Time

	mu      sync.Mutex
	closed  bool
	running int
	waiting int
	users   map[uint32]*user
	turns   []uint32 // users with waiters, in the order of their turns
	swept   time.Time
}

type user struct {
	running int
	bounds  Bounds
	waiters []*waiter
	starts  []time.Time // acceptances within the last Per, oldest first
}

type waiter struct {
	admitted chan struct{} // closed on admission or on closing of the queue
	err      error
}

// New returns a Queue that lets capacity executions run at a time.
func New(capacity int) *Queue {
	return &Queue{capacity: capacity, now: time.Now, users: map[uint32]*user{}}
}

// Acquire waits until the user may run one more execution. The returned
// function has to be called, once, when it has ended. The error is a
// *BusyError at once when there is no place in the queue, ErrClosed, or the
// context's.
func (q *Queue) Acquire(ctx context.Context, uid uint32, b Bounds) (release func(), err error) {
	q.mu.Lock()
	q.sweep()
	u := q.users[uid]
	if u == nil {
		u = &user{}
		q.users[uid] = u
	}
	u.bounds = b
	if err := q.admissible(u, b); err != nil {
		q.forget(uid, u)
		q.mu.Unlock()
		return nil, err
	}
	u.starts = append(u.starts, q.now())
	if q.running < q.capacity && u.running < b.Concurrency && len(u.waiters) == 0 {
		q.running++
		u.running++
		q.mu.Unlock()
		return q.releaser(uid), nil
	}
	w := &waiter{admitted: make(chan struct{})}
	u.waiters = append(u.waiters, w)
	q.waiting++
	if len(u.waiters) == 1 {
		q.turns = append(q.turns, uid)
	}
	q.admit() // a policy may have raised the concurrency of those that wait
	q.mu.Unlock()

	select {
	case <-w.admitted:
	case <-ctx.Done():
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.drop(uid, u, w) {
			q.forget(uid, u)
			return nil, context.Cause(ctx)
		}
		// Admitted meanwhile: the caller decides what to do with a context
		// that has ended.
	}
	if w.err != nil {
		return nil, w.err
	}
	return q.releaser(uid), nil
}

// admissible says why the user's next execution is refused at once, or nil.
func (q *Queue) admissible(u *user, b Bounds) error {
	if q.closed {
		return ErrClosed
	}
	now := q.now()
	for len(u.starts) > 0 && now.Sub(u.starts[0]) >= b.Per {
		u.starts = u.starts[1:]
	}
	if len(u.starts) >= b.Rate {
		retry := b.Per - now.Sub(u.starts[len(u.starts)-b.Rate])
		return &BusyError{"rate", fmt.Sprintf("more than %d executions in %v", b.Rate, b.Per), retry}
	}
	mayRun := q.running < q.capacity && u.running < b.Concurrency && len(u.waiters) == 0
	if !mayRun && len(u.waiters) >= b.Waiting {
		return &BusyError{"queue", fmt.Sprintf("%d executions are running and %d waiting", u.running, len(u.waiters)), time.Second}
	}
	return nil
}

// drop removes a waiter that gave up; false if it had been admitted.
func (q *Queue) drop(uid uint32, u *user, w *waiter) bool {
	for i, other := range u.waiters {
		if other == w {
			u.waiters = append(u.waiters[:i:i], u.waiters[i+1:]...)
			q.waiting--
			if len(u.waiters) == 0 {
				q.unturn(uid)
			}
			return true
		}
	}
	return false
}

func (q *Queue) unturn(uid uint32) {
	for i, other := range q.turns {
		if other == uid {
			q.turns = append(q.turns[:i:i], q.turns[i+1:]...)
			return
		}
	}
}

func (q *Queue) releaser(uid uint32) func() {
	var once sync.Once
	return func() {
		once.Do(func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			u := q.users[uid]
			q.running--
			u.running--
			q.admit()
			q.forget(uid, u)
		})
	}
}

// admit lets waiters run, one of each user in turn, while there is room.
func (q *Queue) admit() {
	for skipped := 0; q.running < q.capacity && skipped < len(q.turns); {
		uid := q.turns[0]
		q.turns = q.turns[1:]
		u := q.users[uid]
		if u.running >= u.bounds.Concurrency {
			q.turns = append(q.turns, uid)
			skipped++
			continue
		}
		w := u.waiters[0]
		u.waiters = u.waiters[1:]
		q.waiting--
		q.running++
		u.running++
		close(w.admitted)
		if len(u.waiters) > 0 {
			q.turns = append(q.turns, uid)
		}
		skipped = 0
	}
}

// forget drops the state of a user that has none worth keeping.
func (q *Queue) forget(uid uint32, u *user) {
	if u.running > 0 || len(u.waiters) > 0 {
		return
	}
	if n := len(u.starts); n == 0 || q.now().Sub(u.starts[n-1]) >= u.bounds.Per {
		delete(q.users, uid)
	}
}

// sweep forgets, once a minute, the users that did not come back.
func (q *Queue) sweep() {
	now := q.now()
	if now.Sub(q.swept) < time.Minute {
		return
	}
	q.swept = now
	for uid, u := range q.users {
		q.forget(uid, u)
	}
}

// Close refuses everybody from now on, those that wait included. What runs
// goes on.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, uid := range q.turns {
		u := q.users[uid]
		for _, w := range u.waiters {
			w.err = ErrClosed
			close(w.admitted)
		}
		u.waiters = nil
	}
	q.turns, q.waiting = nil, 0
}

// Load is how many executions run and wait, in all and of one user.
func (q *Queue) Load(uid uint32) (running, waiting, usersRunning, usersWaiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if u := q.users[uid]; u != nil {
		usersRunning, usersWaiting = u.running, len(u.waiters)
	}
	return q.running, q.waiting, usersRunning, usersWaiting
}
