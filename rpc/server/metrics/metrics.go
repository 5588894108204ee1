// Package metrics counts what csbd does, for Prometheus. docs/metrics.md is
// the list of what it shows.
//
// Labels are words of csbd's own, of the policy, or of the build. Nothing that
// a caller chose, and no user or execution, is ever one: it would tell, and
// there would be no end of them.
package metrics

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server"
)

// latencies are the upper bounds of the histograms of times, in seconds. A
// waiting sandbox is there in well under a millisecond and answers in 3 to 5; a
// restored one takes a tenth of a second, a cold one with pandas one to two;
// the default timeout is 10 s and its ceiling a minute. Where most executions
// are the steps are finer, so that a doubling can be seen.
var latencies = []float64{.001, .002, .003, .005, .0075, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 30, 60}

// sizes are the upper bounds of the histogram of memory, in bytes: a bare
// interpreter in its sandbox takes some 30 MiB, one with pandas 80, and the
// default ceiling is 1 GiB on top.
var sizes = []float64{32 << 20, 64 << 20, 96 << 20, 128 << 20, 192 << 20, 256 << 20, 384 << 20, 512 << 20, 768 << 20, 1 << 30, 2 << 30, 4 << 30}

// statuses are all that a program can end with.
var statuses = []isolation.Status{isolation.StatusOK, isolation.StatusError, isolation.StatusTimeout, isolation.StatusCPULimit,
	isolation.StatusMemoryLimit, isolation.StatusOutputLimit, isolation.StatusKilled, isolation.StatusCancelled}

// limits are those whose being hit csbd sees, by the status that says so. They
// are named as a request names them. A program that lacks processes, disk or
// files gets an error of its own, which csbd does not see.
var limits = map[isolation.Status]string{
	isolation.StatusTimeout:     "timeout",
	isolation.StatusCPULimit:    "cpu_time",
	isolation.StatusMemoryLimit: "memory",
	isolation.StatusOutputLimit: limitOutput,
}

const limitOutput = "output"

// Metrics are csbd's. They are safe for concurrent use, and a server.Observer.
type Metrics struct {
	registry *prometheus.Registry

	executions, limitsHit, refusals *prometheus.CounterVec
	queue, start, run, total        *prometheus.HistogramVec
	cpu                             *prometheus.CounterVec
	memory                          *prometheus.HistogramVec
	requested, written              *prometheus.CounterVec
	dropped                         prometheus.Counter
	reloads                         *prometheus.CounterVec
}

// New returns Metrics that have counted nothing. Show adds what can be read
// off csbd.
func New(version rpc.Version) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		m.registry.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(v)
		return v
	}
	m.executions = counter("csbd_executions_total", "Programs that ran, by how they ended.", "profile", "image", "status")
	m.limitsHit = counter("csbd_limits_hit_total", "Executions that reached a limit of theirs, by the limit.", "profile", "limit")
	m.refusals = counter("csbd_refusals_total", "Requests answered with an error, by its kind; bound is what was reached where the kind is busy, profile is empty where there is none.",
		"kind", "bound", "profile")
	m.queue = histogram("csbd_queue_seconds", "How long executions waited for admission.", latencies, "profile")
	m.start = histogram("csbd_start_seconds", "How long admitted executions waited for a sandbox; warm says whether one was ready.", latencies, "profile", "warm")
	m.run = histogram("csbd_run_seconds", "How long programs ran.", latencies, "profile")
	m.total = histogram("csbd_request_seconds", "Time of executions from the request to the answer.", latencies, "profile")
	m.cpu = counter("csbd_cpu_seconds_total", "Processor time of sandboxes while programs ran.", "profile")
	m.memory = histogram("csbd_peak_memory_bytes", "Largest memory use of sandboxes that ran a program, guest kernel included.", sizes, "profile")
	m.requested = counter("csbd_request_bytes_total", "Bytes that executions were given, by the part of the request.", "part")
	m.written = counter("csbd_output_bytes_total", "Bytes that programs wrote, whether kept or not.", "stream")
	m.dropped = prometheus.NewCounter(prometheus.CounterOpts{Name: "csbd_output_dropped_bytes_total", Help: "Bytes that programs wrote and that were not kept: their output limit was reached."})
	m.reloads = counter("csbd_policy_reloads_total", "Readings of the policy after the first; of a bad one the old policy stays.", "result")

	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "csbd_build_info", Help: "What csbd is: always 1.",
		ConstLabels: prometheus.Labels{"version": version.Version, "commit": version.Commit, "runtime": version.Runtime, "goversion": version.Go}})
	build.Set(1)
	m.registry.MustRegister(m.dropped, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	// A series that first appears as 1 is not seen to have grown: what can be
	// foreseen starts at 0.
	for _, kind := range rpc.Kinds() {
		m.refusals.WithLabelValues(kind, "", "")
	}
	for _, bound := range []string{"memory", "connections"} {
		m.refusals.WithLabelValues("busy", bound, "")
	}
	for _, part := range []string{"code", "stdin", "files"} {
		m.requested.WithLabelValues(part)
	}
	for _, stream := range []string{"stdout", "stderr"} {
		m.written.WithLabelValues(stream)
	}
	for _, result := range []string{"ok", "error"} {
		m.reloads.WithLabelValues(result)
	}
	return m
}

// PolicySet implements server.Observer: the series of the profiles start at 0.
func (m *Metrics) PolicySet(profiles []server.ProfileImages) {
	for _, p := range profiles {
		for _, image := range p.Images {
			for _, status := range statuses {
				m.executions.WithLabelValues(p.Profile, image, string(status))
			}
		}
		for _, limit := range limits {
			m.limitsHit.WithLabelValues(p.Profile, limit)
		}
		for _, kind := range []string{"denied", "internal", "invalid_params"} {
			m.refusals.WithLabelValues(kind, "", p.Profile)
		}
		for _, bound := range []string{"queue", "rate"} {
			m.refusals.WithLabelValues("busy", bound, p.Profile)
		}
		m.queue.WithLabelValues(p.Profile)
		for _, warm := range []bool{false, true} {
			m.start.WithLabelValues(p.Profile, word(warm))
		}
		m.run.WithLabelValues(p.Profile)
		m.total.WithLabelValues(p.Profile)
		m.cpu.WithLabelValues(p.Profile)
		m.memory.WithLabelValues(p.Profile)
	}
}

// Executed implements server.Observer.
func (m *Metrics) Executed(e server.Execution) {
	m.executions.WithLabelValues(e.Profile, e.Image, e.Status).Inc()
	limit := limits[isolation.Status(e.Status)]
	if limit != "" {
		m.limitsHit.WithLabelValues(e.Profile, limit).Inc()
	}
	if e.Dropped > 0 && limit != limitOutput {
		m.limitsHit.WithLabelValues(e.Profile, limitOutput).Inc()
	}
	m.queue.WithLabelValues(e.Profile).Observe(e.Queue.Seconds())
	m.start.WithLabelValues(e.Profile, word(e.Warm)).Observe(e.Start.Seconds())
	m.run.WithLabelValues(e.Profile).Observe(e.Run.Seconds())
	m.total.WithLabelValues(e.Profile).Observe(e.Total.Seconds())
	m.cpu.WithLabelValues(e.Profile).Add(max(e.CPU.Seconds(), 0))
	if e.PeakMemory > 0 {
		m.memory.WithLabelValues(e.Profile).Observe(float64(e.PeakMemory))
	}
	m.requested.WithLabelValues("code").Add(float64(e.Code))
	m.requested.WithLabelValues("stdin").Add(float64(e.Stdin))
	m.requested.WithLabelValues("files").Add(float64(e.Files))
	m.written.WithLabelValues("stdout").Add(float64(e.Stdout))
	m.written.WithLabelValues("stderr").Add(float64(e.Stderr))
	m.dropped.Add(float64(e.Dropped))
}

// Refused implements server.Observer.
func (m *Metrics) Refused(r server.Refusal) {
	m.refusals.WithLabelValues(r.Kind, r.Bound, r.Profile).Inc()
}

// Reloaded counts a reading of the policy that succeeded or did not.
func (m *Metrics) Reloaded(ok bool) {
	result := "ok"
	if !ok {
		result = "error"
	}
	m.reloads.WithLabelValues(result).Inc()
}

func word(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// Bounds of scraping: a page takes a few milliseconds.
const (
	scrapes    = 2 // at a time; others are answered with 503
	scrapeTime = 10 * time.Second
)

// Handler answers GET /metrics, and nothing else.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	page := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            errorLog{log},
		ErrorHandling:       promhttp.ContinueOnError,
		Registry:            m.registry,
		MaxRequestsInFlight: scrapes,
		Timeout:             scrapeTime,
		EnableOpenMetrics:   true,
	})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", page)
	return mux
}

// errorLog is promhttp's, to csbd's log.
type errorLog struct{ log *slog.Logger }

func (l errorLog) Println(v ...any) { l.log.Error("metrics", "error", v) }
