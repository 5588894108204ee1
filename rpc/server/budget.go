package server

import (
	"context"
	"sync"
)

// A budget shares something limited, bytes or connections, between users.
//
// A user who holds nothing gets whatever is free; one who holds something gets
// more as long as that leaves at least as much free as is then held. So one
// user alone gets half, two get a third each, and there is always something
// left for the next.
type budget struct {
	total int64

	mu    sync.Mutex
	used  int64
	users map[uint32]int64
	freed chan struct{} // closed, and made anew, when something is given back
}

func newBudget(total int64) *budget {
	return &budget{total: total, users: map[uint32]int64{}, freed: make(chan struct{})}
}

// take gives the user n, at once or not at all.
func (b *budget) take(uid uint32, n int64) bool { return b.takeUpTo(uid, n, b.total) }

// takeUpTo is take for something of which one user may have most.
func (b *budget) takeUpTo(uid uint32, n, most int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	own, free := b.users[uid], b.total-b.used
	if n > free || own+n > most || own > 0 && own+n > free-n {
		return false
	}
	b.used += n
	b.users[uid] = own + n
	return true
}

// wait gives the user n, or all there is if that is less, as soon as it can.
// The error is the context's.
func (b *budget) wait(ctx context.Context, uid uint32, n int64) (*share, error) {
	n = min(n, b.total)
	for {
		b.mu.Lock()
		freed := b.freed
		b.mu.Unlock()
		if b.take(uid, n) {
			return &share{b, uid, n}, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (b *budget) give(uid uint32, n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.users[uid] -= n; b.users[uid] == 0 {
		delete(b.users, uid)
	}
	close(b.freed)
	b.freed = make(chan struct{})
}

// held is how much is given out.
func (b *budget) held() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// A share is what one request holds of a budget. It is used by one goroutine.
type share struct {
	budget *budget
	uid    uint32
	n      int64
}

// resize makes the share n. Only a larger one can be refused; it then stays as
// it was.
func (s *share) resize(n int64) bool {
	if n > s.n && !s.budget.take(s.uid, n-s.n) {
		return false
	}
	s.budget.give(s.uid, max(s.n-n, 0))
	s.n = n
	return true
}

// grow makes the share larger by n.
func (s *share) grow(n int64) bool { return s.resize(s.n + n) }

// release gives all of it back. It may be called more than once, and on nil.
func (s *share) release() {
	if s != nil {
		s.resize(0)
	}
}
