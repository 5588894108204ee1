package boot_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc"
)

// client is csbctl, one after the other, until the file is there.
const client = `
n=0
until [ -e /run/enough ]; do
	out=$(csbctl --raw -c 'print(6*7)' 2>&1)
	if [ "$? $out" = "0 42" ]; then n=$((n+1)); else echo "FAILED: $out"; fi
done
echo "answered $n"
`

// A load is many clients at once: csbctl by two users, and connections of our
// own, which do not try again as csbctl does.
type load struct {
	m       *machine
	clients sync.WaitGroup
	enough  chan struct{}

	mu       sync.Mutex
	failures []string
	answered int
	stopping int // answers to our own: csbd was about to stop
}

func (m *machine) startLoad() *load {
	m.t.Helper()
	l := &load{m: m, enough: make(chan struct{})}
	m.sh("rm -f /run/enough")
	for _, user := range []string{"ann", "ann", "ann", "root", "root"} {
		cmd := m.As(context.Background(), user, "sh", "-c", client)
		l.clients.Go(func() {
			a, err := run(cmd)
			l.mu.Lock()
			defer l.mu.Unlock()
			if err != nil || a.code != 0 {
				l.failures = append(l.failures, fmt.Sprintf("%+v: %v", a, err))
			}
			for line := range strings.Lines(a.stdout) {
				var n int
				if _, err := fmt.Sscanf(line, "answered %d", &n); err != nil {
					l.failures = append(l.failures, "csbctl: "+strings.TrimSpace(line))
				}
				l.answered += n
			}
		})
	}
	for range 2 {
		l.clients.Go(l.connect)
	}
	l.more(5) // the first of them may start csbd
	return l
}

// more waits until our own connections have had n more answers.
func (l *load) more(n int) {
	l.m.t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.answered
	}
	before := count()
	l.m.eventually("more clients to be answered", func() bool { return count() >= before+n })
}

// connect makes one connection after the other.
func (l *load) connect() {
	for {
		select {
		case <-l.enough:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		r, err := l.m.execute(ctx, "print(6*7)")
		cancel()
		var refusal *rpc.Error
		l.mu.Lock()
		switch {
		case err == nil && r.Stdout == "42\n":
			l.answered++
		case errors.As(err, &refusal) && refusal.Data.Kind == "shutting_down":
			l.stopping++
		default:
			l.failures = append(l.failures, fmt.Sprintf("connection: %v, %+v", err, r))
		}
		l.mu.Unlock()
	}
}

// end waits for the clients. All of them must have been answered.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.more(10)
	close(l.enough)
	l.m.sh("touch /run/enough")
	l.clients.Wait()
	assert.Check(t, len(l.failures) == 0, "%d of %d clients had no answer: %s", len(l.failures), len(l.failures)+l.answered, strings.Join(l.failures, "\n"))
	t.Logf("%d clients had their answer, %d connections heard that csbd was stopping", l.answered, l.stopping)
}
