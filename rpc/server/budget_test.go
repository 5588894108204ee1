package server

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// Greedy users leave something for the next, however many they are.
func TestBudgetLeavesSomething(t *testing.T) {
	b := newBudget(1200)
	for uid := range uint32(5) {
		for b.take(uid, 1) {
		}
	}
	// Those that came first would get less now, and those that came last more.
	assert.Check(t, b.users[0] == 600 && b.users[1] == 300 && b.users[4] > 30, "%v", b.users)
	assert.Check(t, b.total-b.used > 30)
	free := b.total - b.used
	assert.Check(t, b.take(9, free), "whoever has nothing gets what there is")
	assert.Check(t, !b.take(10, 1))
	b.give(9, free)
	for uid := range uint32(5) {
		b.give(uid, b.users[uid])
	}
	assert.Check(t, b.used == 0 && len(b.users) == 0, "%v", b.users)
}

func TestBudgetBoundsOneUser(t *testing.T) {
	b := newBudget(100)
	for range 3 {
		assert.Check(t, b.takeUpTo(1, 1, 3))
	}
	assert.Check(t, !b.takeUpTo(1, 1, 3))
	assert.Check(t, b.takeUpTo(2, 1, 3))
}

func TestBudgetWaits(t *testing.T) {
	b := newBudget(100)
	first, err := b.wait(t.Context(), 1, 1000)
	assert.NilError(t, err)
	assert.Equal(t, first.n, int64(100)) // all there is

	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	time.AfterFunc(10*time.Millisecond, func() { cancel(gone) })
	_, err = b.wait(ctx, 2, 1)
	assert.ErrorIs(t, err, gone)

	resized := make(chan struct{})
	time.AfterFunc(10*time.Millisecond, func() {
		defer close(resized)
		first.resize(40)
	})
	second, err := b.wait(t.Context(), 2, 60)
	assert.NilError(t, err)
	<-resized
	assert.Check(t, !second.grow(1) && second.n == 60)
	first.release()
	first.release()
	second.release()
	assert.Equal(t, b.used, int64(0))
}

// Never more than there is, whoever takes and gives.
func TestBudgetConcurrently(t *testing.T) {
	b := newBudget(1000)
	var users sync.WaitGroup
	for uid := range uint32(8) {
		users.Go(func() {
			for i := range int64(500) {
				s, err := b.wait(t.Context(), uid, 100+i%7)
				if err != nil {
					t.Error(err)
					return
				}
				s.grow(i)
				b.mu.Lock()
				if b.used < s.n || b.used > b.total {
					t.Errorf("%d are used", b.used)
				}
				b.mu.Unlock()
				s.release()
			}
		})
	}
	users.Wait()
	assert.Check(t, b.used == 0 && len(b.users) == 0)
}
