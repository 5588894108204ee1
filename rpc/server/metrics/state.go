package metrics

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server"
)

// Show adds what csbd is doing at the moment of each scrape: its state, and how
// many sandboxes there are, those being started and removed included. It is
// called once.
func (m *Metrics) Show(state func() server.State, sandboxes func() int) {
	m.registry.MustRegister(&reader{state, sandboxes})
}

// A reader is a prometheus.Collector of what is read when it is asked for.
type reader struct {
	state     func() server.State
	sandboxes func() int
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	ready = desc("csbd_ready", "1 if executions can be expected to succeed: the last sandbox could be started, and the last self-test passed.")

	running        = desc("csbd_executions_running", "Executions that run or wait for a sandbox.")
	runningMax     = desc("csbd_executions_max", "How many executions can run at a time.")
	queued         = desc("csbd_executions_queued", "Executions that wait for admission.")
	connections    = desc("csbd_connections", "Open connections of clients.")
	connectionsMax = desc("csbd_connections_max", "How many connections there can be.")
	sandboxes      = desc("csbd_sandboxes", "Sandboxes that exist: starting, waiting, running or being removed.")

	memoryHeld = desc("csbd_memory_held_bytes", "Memory that requests being worked on and results not yet taken hold.", "of")
	memoryMax  = desc("csbd_memory_max_bytes", "How much memory each of the two may hold.", "of")

	generation = desc("csbd_policy_generation", "1 after the start; grows with every policy that is taken.")
	selfTest   = desc("csbd_self_test_success_timestamp_seconds", "When a self-test last passed, in Unix time; 0 for never.")

	auditWritten = desc("csbd_audit_lines_written_total", "Lines of the audit that were written.")
	auditLost    = desc("csbd_audit_lines_lost_total", "Lines of the audit that could not be written.")
)

var ofPool = []string{"image", "profile"}

// What a pool shows. Its counters begin anew when its image is built anew.
var pools = []struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(p rpc.Pool, now time.Time) float64
}{
	{desc("csbd_pool_wanted", "Sandboxes that are to be ready.", ofPool...), prometheus.GaugeValue,
		func(p rpc.Pool, _ time.Time) float64 { return float64(p.Want) }},
	{desc("csbd_pool_max", "Sandboxes that may be ready when demand is high.", ofPool...), prometheus.GaugeValue,
		func(p rpc.Pool, _ time.Time) float64 { return float64(p.Max) }},
	{desc("csbd_pool_ready", "Sandboxes that wait for a program.", ofPool...), prometheus.GaugeValue,
		func(p rpc.Pool, _ time.Time) float64 { return float64(p.Ready) }},
	{desc("csbd_pool_starting", "Sandboxes that are being made.", ofPool...), prometheus.GaugeValue,
		func(p rpc.Pool, _ time.Time) float64 { return float64(p.Starting) }},
	{desc("csbd_pool_memory_bytes", "Memory that waiting sandboxes hold.", ofPool...), prometheus.GaugeValue,
		func(p rpc.Pool, _ time.Time) float64 { return float64(p.Memory) }},
	{desc("csbd_pool_oldest_seconds", "How long the oldest of the waiting sandboxes has waited.", ofPool...), prometheus.GaugeValue,
		func(p rpc.Pool, _ time.Time) float64 { return p.Age }},
	{desc("csbd_pool_refill_seconds", "How long the last start of a sandbox took.", ofPool...), prometheus.GaugeValue,
		func(p rpc.Pool, _ time.Time) float64 { return p.RefillTime }},
	{desc("csbd_pool_hits_total", "Sandboxes that were handed out at once.", ofPool...), prometheus.CounterValue,
		func(p rpc.Pool, _ time.Time) float64 { return float64(p.Hits) }},
	{desc("csbd_pool_misses_total", "Sandboxes that were handed out after a wait, none being ready.", ofPool...), prometheus.CounterValue,
		func(p rpc.Pool, _ time.Time) float64 { return float64(p.Misses) }},
	{desc("csbd_pool_starts_total", "Sandboxes that were started.", ofPool...), prometheus.CounterValue,
		func(p rpc.Pool, _ time.Time) float64 { return float64(p.Launched) }},
	{desc("csbd_pool_start_failures_total", "Sandboxes that could not be started.", ofPool...), prometheus.CounterValue,
		func(p rpc.Pool, _ time.Time) float64 { return float64(p.Failed) }},
	{desc("csbd_pool_deaths_total", "Sandboxes that ended by themselves while they waited.", ofPool...), prometheus.CounterValue,
		func(p rpc.Pool, _ time.Time) float64 { return float64(p.Died) }},
	{desc("csbd_snapshot_timestamp_seconds", "When the snapshot that sandboxes are restored from was made, in Unix time; 0 while there is none.", ofPool...), prometheus.GaugeValue,
		func(p rpc.Pool, now time.Time) float64 {
			if p.Snapshot != rpc.SnapshotReady {
				return 0
			}
			// Whole seconds: it is worked out from an age, and must not seem to move.
			return math.Round(unix(now) - p.SnapshotAge)
		}},
}

// Describe implements prometheus.Collector.
func (r *reader) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{ready, running, runningMax, queued, connections, connectionsMax, sandboxes,
		memoryHeld, memoryMax, generation, selfTest, auditWritten, auditLost} {
		c <- d
	}
	for _, p := range pools {
		c <- p.desc
	}
}

// Collect implements prometheus.Collector.
func (r *reader) Collect(c chan<- prometheus.Metric) {
	now, s := time.Now(), r.state()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	up := 0.0
	if s.Ready {
		up = 1
	}
	gauge(ready, up)
	gauge(running, float64(s.Running))
	gauge(runningMax, float64(s.ExecutionsMax))
	gauge(queued, float64(s.Queued))
	gauge(connections, float64(s.Connections))
	gauge(connectionsMax, float64(s.ConnectionsMax))
	gauge(sandboxes, float64(r.sandboxes()))
	gauge(memoryHeld, float64(s.RequestMemory), "requests")
	gauge(memoryHeld, float64(s.ResultMemory), "results")
	gauge(memoryMax, float64(s.MemoryMax), "requests")
	gauge(memoryMax, float64(s.MemoryMax), "results")
	gauge(generation, float64(s.PolicyGeneration))
	proved := 0.0
	if !s.Proved.IsZero() {
		proved = unix(s.Proved)
	}
	gauge(selfTest, proved)
	if s.Audit != nil {
		c <- prometheus.MustNewConstMetric(auditWritten, prometheus.CounterValue, float64(s.Audit.Written))
		c <- prometheus.MustNewConstMetric(auditLost, prometheus.CounterValue, float64(s.Audit.Lost))
	}
	shown := map[[2]string]bool{}
	for _, p := range s.Pools {
		// One whose policy or image is being replaced has lost its name, or has
		// that of its successor; the page would be wrong with it.
		name := [2]string{p.Image, p.Profile}
		if p.Image == "" || shown[name] {
			continue
		}
		shown[name] = true
		for _, m := range pools {
			c <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(p, now), p.Image, p.Profile)
		}
	}
}

func unix(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }
