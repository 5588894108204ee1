package pool

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/fcarli/codesandbox/isolation"
)

// A maker launches sandboxes that do nothing but count. It is not
// isolationtest's Fake: the pool never runs a program, and what is tested here
// is which sandbox goes where and when it dies.
type maker struct {
	delay atomic.Int64 // nanoseconds of a Launch
	fail  atomic.Bool

	mu       sync.Mutex
	launched []*made
	starting int
	most     int // starting at a time
}

type made struct {
	ended  chan struct{}
	memory int64
	taken  atomic.Int64
	closed atomic.Int64
}

func (m *made) Run(context.Context, isolation.Spec, isolation.Output) (isolation.Result, error) {
	return isolation.Result{}, errors.New("not used")
}
func (m *made) Close() error           { m.closed.Add(1); return nil }
func (m *made) Ended() <-chan struct{} { return m.ended }
func (m *made) MemoryUse() int64       { return m.memory }

var errNoLaunch = errors.New("no launch today")

func (k *maker) Launch(ctx context.Context) (isolation.Sandbox, error) {
	k.mu.Lock()
	k.starting++
	k.most = max(k.most, k.starting)
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		k.starting--
		k.mu.Unlock()
	}()
	select {
	case <-time.After(time.Duration(k.delay.Load())):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if k.fail.Load() {
		return nil, errNoLaunch
	}
	s := &made{ended: make(chan struct{}), memory: 50}
	k.mu.Lock()
	k.launched = append(k.launched, s)
	k.mu.Unlock()
	return s, nil
}

func (k *maker) all() []*made {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]*made(nil), k.launched...)
}

var class = isolation.Class{Digest: "sha256:a"}

func start(t *testing.T, k *maker, c Config, size Size) *Pool {
	t.Helper()
	c.Launcher = func(isolation.Class) isolation.Launcher { return k }
	c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	if c.Launches == 0 {
		c.Launches = 2
	}
	p := New(c)
	p.Keep(map[isolation.Class]Size{class: size})
	t.Cleanup(func() {
		p.Close()
		for n, s := range k.all() {
			if s.taken.Load() == 0 {
				assert.Check(t, s.closed.Load() == 1, "sandbox %d was closed %d times", n, s.closed.Load())
			} else {
				assert.Check(t, s.closed.Load() == 0, "sandbox %d was handed out and closed by the pool", n)
			}
		}
	})
	return p
}

func take(t *testing.T, p *Pool) (*made, bool) {
	t.Helper()
	s, warm, err := p.Take(t.Context(), class)
	assert.NilError(t, err)
	m := s.(*made)
	assert.Equal(t, m.taken.Add(1), int64(1), "handed out twice")
	return m, warm
}

func stats(p *Pool) Stats { return p.Stats()[0] }

func ready(n int) func(*Pool) poll.Check {
	return func(p *Pool) poll.Check {
		return func(poll.LogT) poll.Result {
			if s := stats(p); s.Ready == n && s.Starting == 0 {
				return poll.Success()
			}
			return poll.Continue("%+v", stats(p))
		}
	}
}

func wait(t *testing.T, p *Pool, n int) {
	t.Helper()
	poll.WaitOn(t, ready(n)(p), poll.WithTimeout(5*time.Second), poll.WithDelay(time.Millisecond))
}

func TestKeepsReadyAndRefills(t *testing.T) {
	k := &maker{}
	p := start(t, k, Config{}, Size{Ready: 3, Max: 3})
	wait(t, p, 3)
	for range 10 {
		_, warm := take(t, p)
		assert.Assert(t, warm)
		wait(t, p, 3)
	}
	assert.Equal(t, stats(p).Hits, int64(10))
	assert.Equal(t, stats(p).Misses, int64(0))
}

func TestEmptyPoolWaitsAndGrowsToMax(t *testing.T) {
	k := &maker{}
	k.delay.Store(int64(20 * time.Millisecond))
	p := start(t, k, Config{}, Size{Ready: 1, Max: 3})
	wait(t, p, 1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { take(t, p) })
	}
	wg.Wait()
	assert.Assert(t, stats(p).Misses >= 5)
	wait(t, p, 3) // demand raised it to Max, and no further
}

func TestStartsAtATimeAreBounded(t *testing.T) {
	k := &maker{}
	k.delay.Store(int64(2 * time.Millisecond))
	p := start(t, k, Config{Launches: 2}, Size{Ready: 10, Max: 10})
	wait(t, p, 10)
	assert.Assert(t, k.most <= 2, "%d at a time", k.most)
}

func TestDeadSandboxIsNotHandedOut(t *testing.T) {
	k := &maker{}
	p := start(t, k, Config{}, Size{Ready: 2, Max: 2})
	wait(t, p, 2)
	for _, s := range k.all() {
		close(s.ended)
	}
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if stats(p).Died == 2 {
			return poll.Success()
		}
		return poll.Continue("%+v", stats(p))
	}, poll.WithTimeout(5*time.Second), poll.WithDelay(time.Millisecond))
	m, _ := take(t, p)
	select {
	case <-m.ended:
		t.Fatal("handed out a dead sandbox")
	default:
	}
}

// A sandbox can die between the moment that its watcher would notice and the
// hand-over; Take itself looks.
func TestDeathJustBeforeTake(t *testing.T) {
	k := &maker{}
	p := start(t, k, Config{}, Size{Ready: 1, Max: 1})
	for range 200 {
		wait(t, p, 1)
		all := k.all()
		close(all[len(all)-1].ended)
		m, _ := take(t, p)
		select {
		case <-m.ended:
			t.Fatal("handed out a dead sandbox")
		default:
		}
	}
}

func TestFailedLaunch(t *testing.T) {
	k := &maker{}
	k.fail.Store(true)
	p := start(t, k, Config{}, Size{Ready: 1, Max: 1})
	_, _, err := p.Take(t.Context(), class)
	assert.ErrorIs(t, err, errNoLaunch)
	assert.ErrorIs(t, stats(p).Problem, errNoLaunch)
	k.fail.Store(false)
	wait(t, p, 1)
	assert.NilError(t, stats(p).Problem)
}

func TestFailuresBackOff(t *testing.T) {
	k := &maker{}
	k.fail.Store(true)
	p := start(t, k, Config{}, Size{Ready: 4, Max: 4})
	time.Sleep(300 * time.Millisecond)
	assert.Assert(t, stats(p).Failed < 20, "%d failures", stats(p).Failed)
}

func TestCancelledTake(t *testing.T) {
	k := &maker{}
	k.delay.Store(int64(time.Hour))
	p := start(t, k, Config{}, Size{Ready: 1, Max: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, _, err := p.Take(ctx, class)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	other, _, err := p.Take(ctx, isolation.Class{Digest: "sha256:b"})
	assert.Assert(t, other == nil && errors.Is(err, context.DeadlineExceeded))
}

func TestMemoryBudget(t *testing.T) {
	k := &maker{}
	p := start(t, k, Config{Memory: 100, Launches: 1}, Size{Ready: 10, Max: 10})
	time.Sleep(50 * time.Millisecond)
	// Two of 50 fill it.
	assert.Equal(t, stats(p).Ready, 2)
	// Whoever asks is served all the same.
	for range 5 {
		take(t, p)
	}
	time.Sleep(50 * time.Millisecond)
	assert.Equal(t, stats(p).Ready, 2)
}

func TestMaxAge(t *testing.T) {
	k := &maker{}
	p := start(t, k, Config{MaxAge: 20 * time.Millisecond}, Size{Ready: 1, Max: 1})
	wait(t, p, 1)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if k.all()[0].closed.Load() == 1 && len(k.all()) > 1 {
			return poll.Success()
		}
		return poll.Continue("the first sandbox is still there")
	}, poll.WithTimeout(5*time.Second), poll.WithDelay(time.Millisecond))
}

func TestKeepNothing(t *testing.T) {
	k := &maker{}
	p := start(t, k, Config{}, Size{Ready: 2, Max: 2})
	wait(t, p, 2)
	p.Keep(nil)
	assert.Equal(t, len(p.Stats()), 0)
	// The class is started for the Take alone.
	_, warm := take(t, p)
	assert.Assert(t, !warm)
}

func TestCloseWithWaiters(t *testing.T) {
	k := &maker{}
	k.delay.Store(int64(time.Hour))
	p := start(t, k, Config{}, Size{Ready: 1, Max: 1})
	done := make(chan error)
	go func() {
		_, _, err := p.Take(context.Background(), class)
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	p.Close()
	assert.ErrorIs(t, <-done, ErrClosed)
	_, _, err := p.Take(t.Context(), class)
	assert.ErrorIs(t, err, ErrClosed)
}

// A thousand takes, a third of them given up at a random moment, with launches
// that fail and sandboxes that die: afterwards the pool has its size, and every
// sandbox is with its taker or closed, once.
func TestManyTakes(t *testing.T) {
	k := &maker{}
	k.delay.Store(int64(time.Millisecond))
	p := start(t, k, Config{Launches: 4}, Size{Ready: 4, Max: 8})
	var wg sync.WaitGroup
	for worker := range 8 {
		rnd := rand.New(rand.NewSource(int64(worker)))
		wg.Go(func() {
			for range 125 {
				ctx, cancel := context.WithCancel(t.Context())
				if rnd.Intn(3) == 0 {
					time.AfterFunc(time.Duration(rnd.Intn(1500))*time.Microsecond, cancel)
				}
				k.fail.Store(rnd.Intn(10) == 0)
				if all := k.all(); len(all) > 0 && rnd.Intn(5) == 0 {
					s := all[len(all)-1]
					k.mu.Lock()
					select {
					case <-s.ended:
					default:
						close(s.ended)
					}
					k.mu.Unlock()
				}
				s, _, err := p.Take(ctx, class)
				if err == nil {
					assert.Check(t, s.(*made).taken.Add(1) == 1, "handed out twice")
				}
				cancel()
			}
		})
	}
	wg.Wait()
	k.fail.Store(false)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if s := stats(p); s.Ready >= 4 && s.Ready <= 8 && s.Starting == 0 {
			return poll.Success()
		}
		return poll.Continue("%+v", stats(p))
	}, poll.WithTimeout(15*time.Second))
}

func BenchmarkTake(b *testing.B) {
	k := &maker{}
	p := New(Config{Launcher: func(isolation.Class) isolation.Launcher { return k }, Launches: 2, Log: slog.Default()})
	defer p.Close()
	p.Keep(map[isolation.Class]Size{class: {Ready: 16, Max: 16}})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := p.Take(b.Context(), class); err != nil {
			b.Fatal(err)
		}
	}
}
