package metrics_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server"
	"github.com/fcarli/codesandbox/rpc/server/metrics"
)

func get(t testing.TB, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	assert.Equal(t, w.Code, 200, "%s", w.Body)
	return w.Body.String()
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Every end of a program counts for the limits that it hit, once each.
func TestLimitsHit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status  string
		dropped int64
		hit     string
	}{
		{"ok", 0, ""},
		{"ok", 1, "output"},
		{"error", 0, ""},
		{"killed", 0, ""},
		{"cancelled", 0, ""},
		{"timeout", 0, "timeout"},
		{"cpu_limit", 0, "cpu_time"},
		{"memory_limit", 0, "memory"},
		{"output_limit", 0, "output"},
		{"output_limit", 9, "output"},
		{"timeout", 9, "output timeout"},
	} {
		m := metrics.New(rpc.Version{})
		m.Executed(server.Execution{Profile: "p", Image: "i", Status: test.status, Dropped: test.dropped})
		var hit []string
		for _, name := range []string{"cpu_time", "memory", "output", "timeout"} {
			if parse(t, get(t, m.Handler(quiet()))).nonzero("csbd_limits_hit_total")["limit="+name+" profile=p"] == 1 {
				hit = append(hit, name)
			}
		}
		assert.Equal(t, strings.Join(hit, " "), test.hit, "%+v", test)
	}
}

// While a policy or an image is being replaced, a pool can be without its name
// or there twice. The page has to come all the same.
func TestPoolsInTransition(t *testing.T) {
	t.Parallel()
	m := metrics.New(rpc.Version{})
	m.Show(func() server.State {
		return server.State{Status: rpc.Status{Pools: []rpc.Pool{
			{Want: 1}, {Image: "python", Profile: "p", Want: 2}, {Want: 3}, {Image: "python", Profile: "p", Want: 4}, {Image: "python", Profile: "q", Want: 5}}}}
	}, func() int { return 0 })
	p := parse(t, get(t, m.Handler(quiet())))
	assert.Check(t, len(p["csbd_pool_wanted"].GetMetric()) == 2)
	assert.Check(t, p.value(t, "csbd_pool_wanted", "image=python profile=p") == 2 && p.value(t, "csbd_pool_wanted", "image=python profile=q") == 5)
	// What never was is 0, and no date long ago or ahead.
	assert.Check(t, p.value(t, "csbd_self_test_success_timestamp_seconds", "") == 0)
	assert.Check(t, p.value(t, "csbd_snapshot_timestamp_seconds", "image=python profile=q") == 0)
	assert.Check(t, p["csbd_audit_lines_lost_total"] == nil, "there is no audit")
}

// More scrapes at a time than there can be are told so.
func TestScrapesAreBounded(t *testing.T) {
	t.Parallel()
	m := metrics.New(rpc.Version{})
	inside, goOn := make(chan bool, 10), make(chan bool)
	m.Show(func() server.State {
		inside <- true
		<-goOn
		return server.State{}
	}, func() int { return 0 })
	h := m.Handler(quiet())
	codes := make(chan int, 2)
	for range 2 {
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
			codes <- w.Code
		}()
		<-inside
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	assert.Equal(t, w.Code, 503, "%s", w.Body)
	close(goOn)
	for range 2 {
		assert.Equal(t, <-codes, 200)
	}
}

// Counting goes on while pages are made.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	m := metrics.New(rpc.Version{})
	h := m.Handler(quiet())
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 200 {
				profile := fmt.Sprint("p", i%2)
				m.Executed(server.Execution{Profile: profile, Image: "python", Status: "ok", Run: time.Millisecond})
				m.Refused(server.Refusal{Kind: "busy", Bound: "rate", Profile: profile})
				if n%50 == 0 {
					m.PolicySet([]server.ProfileImages{{Profile: profile, Images: []string{"python"}}})
				}
			}
		})
	}
	pages := sync.WaitGroup{}
	pages.Go(func() {
		last := map[string]float64{}
		for range 20 {
			now := parse(t, get(t, h)).series()
			for name, n := range last {
				if strings.HasPrefix(name, "csbd_") {
					assert.Check(t, now[name] >= n, "%s was %v, is %v", name, n, now[name])
				}
			}
			last = now
		}
	})
	all.Wait()
	pages.Wait()
	p := parse(t, get(t, h))
	for _, profile := range []string{"p0", "p1"} {
		assert.Check(t, p.value(t, "csbd_executions_total", "image=python profile="+profile+" status=ok") == 800)
		assert.Check(t, p.value(t, "csbd_refusals_total", "bound=rate kind=busy profile="+profile) == 800)
	}
}

// loaded are the metrics of a csbd with 20 profiles of 3 images, and a pool of
// each.
func loaded() *metrics.Metrics {
	m := metrics.New(rpc.Version{Version: "1", Commit: "2", Runtime: "3", Go: "4"})
	var profiles []server.ProfileImages
	var pools []rpc.Pool
	for i := range 20 {
		p := server.ProfileImages{Profile: fmt.Sprint("profile-", i), Images: []string{"python", "science", "plots"}}
		profiles = append(profiles, p)
		pools = append(pools, rpc.Pool{Image: "python", Profile: p.Profile, Want: 2, Ready: 2})
	}
	m.PolicySet(profiles)
	m.Show(func() server.State { return server.State{Status: rpc.Status{Pools: pools}} }, func() int { return 40 })
	return m
}

// A scrape of a large csbd, for its time and allocations.
func BenchmarkScrape(b *testing.B) {
	h := loaded().Handler(quiet())
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(discard{}, httptest.NewRequest("GET", "/metrics", nil))
	}
	b.ReportMetric(float64(len(get(b, h))), "B/page")
}

// What an execution pays for being counted.
func BenchmarkExecuted(b *testing.B) {
	m := loaded()
	e := server.Execution{Profile: "profile-7", Image: "python", Status: "ok", Warm: true, Queue: time.Microsecond, Start: time.Microsecond,
		Run: 3 * time.Millisecond, Total: 4 * time.Millisecond, CPU: 3 * time.Millisecond, PeakMemory: 80 << 20, Code: 100, Stdout: 10}
	b.ReportAllocs()
	for b.Loop() {
		m.Executed(e)
	}
}

// Counting must stay cheap beside an execution of 3 ms.
func TestExecutedIsCheap(t *testing.T) {
	m := loaded()
	e := server.Execution{Profile: "profile-7", Image: "python", Status: "timeout", Dropped: 1, PeakMemory: 1}
	assert.Check(t, testing.AllocsPerRun(100, func() { m.Executed(e) }) <= 20)
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return io.Discard.Write(p) }
func (discard) WriteHeader(int)             {}
