// Package pool keeps sandboxes ready and hands each out once. It knows neither
// gVisor nor policies: it has Launchers, and numbers.
package pool

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/fcarli/codesandbox/isolation"
)

// A Size says how many sandboxes of a class are kept.
type Size struct {
	// Ready is how many wait when nobody asks. Max is how many may wait or be
	// started at a time; between the two the pool follows demand.
	Ready, Max int
}

// A Config is what a Pool works with.
type Config struct {
	// Launcher returns the Launcher of a class. It is called once for a class
	// that is kept, and for each Take of one that is not.
	Launcher func(isolation.Class) isolation.Launcher
	// Launches is how many sandboxes are started at a time, of all classes.
	// More than there are processors only makes each of them later.
	Launches int
	// MaxAge is how long a sandbox waits before it is replaced.
	MaxAge time.Duration
	// Memory bounds, in bytes, what all waiting sandboxes hold together, as far
	// as they tell (Sizer). 0 is no bound.
	Memory int64
	Log    *slog.Logger
}

// A Sizer is a Sandbox that knows how much memory it holds, in bytes.
type Sizer interface{ MemoryUse() int64 }

// An Ender is a Sandbox that knows when it has died by itself.
type Ender interface{ Ended() <-chan struct{} }

// ErrClosed says that the Pool hands out nothing any more.
var ErrClosed = errors.New("pool is closed")

// How long a shelf waits after failed launches: the first, doubled up to the
// last.
const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
)

// calm is how long demand has to stay away before a shelf shrinks by one.
const calm = 30 * time.Second

// courtesy is how long the processors are left to a program before its
// sandbox's replacement is started: two and a half times what a small one takes.
const courtesy = 25 * time.Millisecond

// A Pool is safe for concurrent use. Close it.
type Pool struct {
	Config
	ctx    context.Context
	cancel context.CancelFunc
	tokens chan struct{} // held while a sandbox is started
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	shelves map[isolation.Class]*shelf
}

// New returns an empty Pool.
func New(c Config) *Pool {
	if c.Launches < 1 {
		c.Launches = 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Pool{Config: c, ctx: ctx, cancel: cancel, tokens: make(chan struct{}, c.Launches), shelves: map[isolation.Class]*shelf{}}
}

// Keep says which classes are kept ready from now on, and how many of each.
// Waiting sandboxes of other classes are closed.
func (p *Pool) Keep(sizes map[isolation.Class]Size) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	resize := map[*shelf]Size{}
	for class, s := range p.shelves {
		if _, kept := sizes[class]; !kept {
			delete(p.shelves, class)
			resize[s] = Size{}
		}
	}
	for class, size := range sizes {
		if p.shelves[class] == nil {
			p.shelves[class] = newShelf(p, class)
		}
		resize[p.shelves[class]] = size
	}
	p.mu.Unlock()
	for s, size := range resize {
		s.resize(size)
	}
}

// Take returns a sandbox that nobody has had. warm says that it was waiting;
// otherwise Take has waited for one being made. A sandbox that died while it
// waited is not handed out. A class that is not kept is started for this Take.
func (p *Pool) Take(ctx context.Context, class isolation.Class) (_ isolation.Sandbox, warm bool, err error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, false, ErrClosed
	}
	s := p.shelves[class]
	if s == nil {
		p.wg.Add(1)
		defer p.wg.Done()
	}
	p.mu.Unlock()
	if s == nil {
		sandbox, err := p.launch(ctx, class)
		return sandbox, false, err
	}
	return s.take(ctx)
}

// launch starts a sandbox that no shelf has.
func (p *Pool) launch(ctx context.Context, class isolation.Class) (isolation.Sandbox, error) {
	select {
	case p.tokens <- struct{}{}:
		defer func() { <-p.tokens }()
		return p.Launcher(class).Launch(ctx)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-p.ctx.Done():
		return nil, ErrClosed
	}
}

// Close closes what waits and ends what is being started. Sandboxes that were
// handed out are their takers'.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	shelves := p.shelves
	p.shelves = map[isolation.Class]*shelf{}
	p.mu.Unlock()
	p.cancel()
	for _, s := range shelves {
		s.resize(Size{})
	}
	p.wg.Wait()
}

// Stats describe one class.
type Stats struct {
	Class    isolation.Class
	Size     Size
	Ready    int
	Starting int
	// Hits were handed out at once, Misses after a wait.
	Hits, Misses int64
	// Launched and Failed count starts; Died counts sandboxes that ended while
	// they waited.
	Launched, Failed, Died int64
	// Refill is the duration of the last successful start.
	Refill time.Duration
	// Oldest is the age of the sandbox that has waited longest.
	Oldest time.Duration
	// Memory that the waiting sandboxes hold, in bytes.
	Memory int64
	// Problem of the last start, nil if it succeeded.
	Problem error
}

// Stats returns those of every class that is kept.
func (p *Pool) Stats() []Stats {
	p.mu.Lock()
	shelves := make([]*shelf, 0, len(p.shelves))
	for _, s := range p.shelves {
		shelves = append(shelves, s)
	}
	p.mu.Unlock()
	var all []Stats
	for _, s := range shelves {
		all = append(all, s.stats())
	}
	return all
}

// overBudget says that the waiting sandboxes hold as much as they may. Those
// being started are not counted: the budget is exceeded by Launches at most.
func (p *Pool) overBudget() bool {
	if p.Memory <= 0 {
		return false
	}
	var held int64
	for _, s := range p.Stats() {
		held += s.Memory
	}
	return held >= p.Memory
}
