package pool

import (
	"context"
	"sync"
	"time"

	"github.com/fcarli/codesandbox/isolation"
)

// A shelf holds the sandboxes of one class. Whatever changes what it should
// hold (a take, a death, a resize, a start that ended) calls fill, which starts
// what is missing; nothing slow happens under the lock.
type shelf struct {
	pool     *Pool
	class    isolation.Class
	launcher isolation.Launcher

	mu       sync.Mutex
	size     Size
	extra    int // above size.Ready, for recent misses
	lastMiss time.Time
	items    []*item // oldest first
	starting int
	waiters  []chan handover // oldest first
	backoff  time.Duration
	retryAt  time.Time
	counts   Stats
}

// An item is one waiting sandbox.
type item struct {
	sandbox isolation.Sandbox
	since   time.Time
	memory  int64
	taken   chan struct{} // closed when it leaves the shelf
}

// dead says that the sandbox has ended, which its watcher may not have seen yet.
func (i *item) dead() bool {
	ender, ok := i.sandbox.(Ender)
	if !ok {
		return false
	}
	select {
	case <-ender.Ended():
		return true
	default:
		return false
	}
}

// A handover is what a waiter gets.
type handover struct {
	sandbox isolation.Sandbox
	err     error
}

func newShelf(p *Pool, class isolation.Class) *shelf {
	return &shelf{pool: p, class: class, launcher: p.Launcher(class), counts: Stats{Class: class}}
}

func (s *shelf) resize(size Size) {
	s.mu.Lock()
	s.size = size
	s.extra = min(s.extra, max(size.Max-size.Ready, 0))
	drop := s.shrink()
	s.mu.Unlock()
	s.close(drop)
	s.fill()
}

// shrink takes off the shelf what is too much; s.mu is held.
func (s *shelf) shrink() []*item {
	n := len(s.items) - (s.size.Ready + s.extra)
	if n <= 0 {
		return nil
	}
	drop := s.items[:n:n]
	s.items = append([]*item(nil), s.items[n:]...)
	for _, i := range drop {
		close(i.taken)
	}
	return drop
}

func (s *shelf) close(items []*item) {
	for _, i := range items {
		s.discard(i.sandbox)
	}
}

// discard closes a sandbox in the background.
func (s *shelf) discard(sandbox isolation.Sandbox) {
	s.pool.wg.Add(1)
	go func() {
		defer s.pool.wg.Done()
		if err := sandbox.Close(); err != nil {
			s.pool.Log.Error("sandbox not removed", "error", err)
		}
	}()
}

// take hands out the oldest sandbox, or waits for the next.
func (s *shelf) take(ctx context.Context) (isolation.Sandbox, bool, error) {
	s.mu.Lock()
	for len(s.items) > 0 {
		i := s.items[0]
		s.items = s.items[1:]
		close(i.taken)
		if i.dead() {
			s.counts.Died++
			s.discard(i.sandbox)
			continue
		}
		s.counts.Hits++
		s.mu.Unlock()
		s.fillLater()
		return i.sandbox, true, nil
	}
	w := make(chan handover, 1)
	s.waiters = append(s.waiters, w)
	s.counts.Misses++
	s.extra = min(s.extra+1, max(s.size.Max-s.size.Ready, 0))
	s.lastMiss = time.Now()
	s.mu.Unlock()
	s.fill()

	select {
	case h := <-w:
		return h.sandbox, false, h.err
	case <-ctx.Done():
	case <-s.pool.ctx.Done():
	}
	s.mu.Lock()
	for i, other := range s.waiters {
		if other == w {
			s.waiters = append(s.waiters[:i:i], s.waiters[i+1:]...)
			s.mu.Unlock()
			if s.pool.ctx.Err() != nil {
				return nil, false, ErrClosed
			}
			return nil, false, context.Cause(ctx)
		}
	}
	s.mu.Unlock()
	// Something was handed over meanwhile.
	h := <-w
	return h.sandbox, false, h.err
}

// fillLater fills when the program that was just given a sandbox has had a
// moment for itself: a start takes all the processor time that it can get, and
// most programs are over sooner than it is. Who finds nothing ready does not
// wait for this: a miss fills at once.
func (s *shelf) fillLater() {
	s.pool.wg.Add(1)
	go func() {
		defer s.pool.wg.Done()
		select {
		case <-time.After(courtesy):
			s.fill()
		case <-s.pool.ctx.Done():
		}
	}()
}

// fill starts what is missing: one for each waiter, and what should wait.
func (s *shelf) fill() {
	overBudget := s.pool.overBudget()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool.ctx.Err() != nil {
		return
	}
	want := s.want(overBudget)
	for ; s.starting < want; s.starting++ {
		// Waiters are not kept waiting by a backoff: they get the error.
		delay := time.Duration(0)
		if s.starting >= len(s.waiters) {
			delay = time.Until(s.retryAt)
		}
		s.pool.wg.Add(1)
		go s.start(delay)
	}
}

// start launches one sandbox and puts it where it is wanted.
func (s *shelf) start(delay time.Duration) {
	defer s.pool.wg.Done()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-s.pool.ctx.Done():
		}
	}
	var sandbox isolation.Sandbox
	var err error
	var took time.Duration
	select {
	case s.pool.tokens <- struct{}{}:
		if s.wanted() {
			begin := time.Now()
			sandbox, err = s.launcher.Launch(s.pool.ctx)
			took = time.Since(begin)
		}
		<-s.pool.tokens
	case <-s.pool.ctx.Done():
		err = s.pool.ctx.Err()
	}
	s.put(sandbox, err, took)
}

// wanted says whether a start that now has its turn is still needed.
func (s *shelf) wanted() bool {
	overBudget := s.pool.overBudget()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pool.ctx.Err() == nil && s.starting <= s.want(overBudget)
}

// want is how many should be starting; s.mu is held.
func (s *shelf) want(overBudget bool) int {
	want := len(s.waiters)
	if !overBudget {
		want += max(s.size.Ready+s.extra-len(s.items), 0)
	}
	return want
}

// put hands a new sandbox to the first waiter, or lays it on the shelf.
func (s *shelf) put(sandbox isolation.Sandbox, err error, took time.Duration) {
	s.mu.Lock()
	s.starting--
	switch {
	case err != nil:
		s.failed(err)
	case sandbox != nil:
		s.counts.Launched++
		s.counts.Refill, s.counts.Problem = took, nil
		s.backoff, s.retryAt = 0, time.Time{}
		if len(s.waiters) > 0 {
			s.waiters[0] <- handover{sandbox: sandbox}
			s.waiters = s.waiters[1:]
		} else if s.pool.ctx.Err() != nil || len(s.items) >= s.size.Ready+s.extra {
			s.discard(sandbox)
		} else {
			s.lay(sandbox)
		}
	}
	s.mu.Unlock()
	s.fill()
}

// failed tells the first waiter, who may have been waiting for this very
// start, and lets the next wait; s.mu is held.
func (s *shelf) failed(err error) {
	if s.pool.ctx.Err() != nil {
		err = ErrClosed
	} else {
		s.counts.Failed++
		s.counts.Problem = err
		s.pool.Log.Error("sandbox not started", "image", s.class.Digest, "error", err)
	}
	s.backoff = min(max(2*s.backoff, firstBackoff), lastBackoff)
	s.retryAt = time.Now().Add(s.backoff)
	if len(s.waiters) > 0 {
		s.waiters[0] <- handover{err: err}
		s.waiters = s.waiters[1:]
	}
}

// lay puts a sandbox on the shelf and watches it; s.mu is held.
func (s *shelf) lay(sandbox isolation.Sandbox) {
	i := &item{sandbox: sandbox, since: time.Now(), taken: make(chan struct{})}
	if sizer, ok := sandbox.(Sizer); ok {
		i.memory = sizer.MemoryUse()
	}
	s.items = append(s.items, i)
	s.pool.wg.Add(1)
	go s.watch(i)
}

// watch takes a sandbox off the shelf that dies or gets too old.
func (s *shelf) watch(i *item) {
	defer s.pool.wg.Done()
	var ended <-chan struct{}
	if ender, ok := i.sandbox.(Ender); ok {
		ended = ender.Ended()
	}
	var old <-chan time.Time
	if s.pool.MaxAge > 0 {
		timer := time.NewTimer(s.pool.MaxAge)
		defer timer.Stop()
		old = timer.C
	}
	shrink := time.NewTimer(calm)
	defer shrink.Stop()
	for {
		died := false
		select {
		case <-i.taken:
			return
		case <-s.pool.ctx.Done():
		case <-ended:
			died = true
		case <-old:
		case <-shrink.C:
			s.relax()
			shrink.Reset(calm)
			continue
		}
		if s.remove(i, died) {
			s.discard(i.sandbox)
			s.fill()
		}
		return
	}
}

// relax lowers what demand had raised, when there has been none for a while.
func (s *shelf) relax() {
	s.mu.Lock()
	var drop []*item
	if s.extra > 0 && time.Since(s.lastMiss) >= calm {
		s.extra--
		s.lastMiss = time.Now()
		drop = s.shrink()
	}
	s.mu.Unlock()
	s.close(drop)
}

// remove takes i off the shelf; false if it is not there any more.
func (s *shelf) remove(i *item, died bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, other := range s.items {
		if other == i {
			s.items = append(s.items[:n:n], s.items[n+1:]...)
			close(i.taken)
			if died {
				s.counts.Died++
			}
			return true
		}
	}
	return false
}

func (s *shelf) stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.counts
	out.Size, out.Ready, out.Starting = s.size, len(s.items), s.starting
	for _, i := range s.items {
		out.Memory += i.memory
		out.Oldest = max(out.Oldest, time.Since(i.since))
	}
	return out
}
