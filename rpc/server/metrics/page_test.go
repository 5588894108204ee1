package metrics_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"gotest.tools/v3/assert"
)

// A page is what a scrape brought, by the names of the metrics.
type page map[string]*dto.MetricFamily

// scrape asks csbd as Prometheus does, and reads the answer as it does.
func scrape(t testing.TB, socket string) (page, string) {
	t.Helper()
	c := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	r, err := c.Get("http://csbd/metrics")
	assert.NilError(t, err)
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	assert.NilError(t, err)
	assert.Equal(t, r.StatusCode, 200, "%s", data)
	return parse(t, string(data)), string(data)
}

func parse(t testing.TB, text string) page {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	assert.NilError(t, err)
	return families
}

// labels are those of a metric as "name=value …", sorted by name.
func labels(m *dto.Metric) string {
	var list []string
	for _, l := range m.GetLabel() {
		list = append(list, l.GetName()+"="+l.GetValue())
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// series are all numbers of a page that only grow, by name and labels.
func (p page) series() map[string]float64 {
	all := map[string]float64{}
	for name, family := range p {
		for _, m := range family.GetMetric() {
			key := name + " " + labels(m)
			switch {
			case m.Counter != nil:
				all[key] = m.GetCounter().GetValue()
			case m.Histogram != nil:
				all[key+" count"] = float64(m.GetHistogram().GetSampleCount())
				all[key+" sum"] = m.GetHistogram().GetSampleSum()
				for _, b := range m.GetHistogram().GetBucket() {
					all[fmt.Sprint(key, " ", b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
			}
		}
	}
	return all
}

// one is the metric of a name with just these labels.
func (p page) one(t testing.TB, name, with string) *dto.Metric {
	t.Helper()
	for _, m := range p[name].GetMetric() {
		if labels(m) == with {
			return m
		}
	}
	t.Fatalf("there is no %s{%s}", name, with)
	return nil
}

// value is the number of a counter or gauge.
func (p page) value(t testing.TB, name, with string) float64 {
	t.Helper()
	m := p.one(t, name, with)
	if m.Counter != nil {
		return m.GetCounter().GetValue()
	}
	return m.GetGauge().GetValue()
}

// nonzero are the values of a counter that are not 0, by labels.
func (p page) nonzero(name string) map[string]int {
	found := map[string]int{}
	for _, m := range p[name].GetMetric() {
		if n := m.GetCounter().GetValue(); n != 0 {
			found[labels(m)] = int(n)
		}
	}
	return found
}

// own are the names of csbd's own metrics, sorted.
func (p page) own() []string {
	return slices.Sorted(func(yield func(string) bool) {
		for name := range maps.Keys(p) {
			if strings.HasPrefix(name, "csbd_") && !yield(name) {
				return
			}
		}
	})
}

// labelNames are the labels of a metric, sorted.
func (p page) labelNames(name string) []string {
	names := []string{}
	for _, m := range p[name].GetMetric() {
		for _, l := range m.GetLabel() {
			if !slices.Contains(names, l.GetName()) {
				names = append(names, l.GetName())
			}
		}
	}
	slices.Sort(names)
	return names
}
