package metrics_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// fromTarget are labels that Prometheus gives every series.
var fromTarget = []string{"job", "instance"}

func file(t *testing.T, name ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{imagetest.Root()}, name...)...))
	assert.NilError(t, err)
	return data
}

// TestPage holds a real csbd's page to Prometheus's conventions, and
// documentation, dashboard and alerts to the page.
func TestPage(t *testing.T) {
	t.Parallel()
	dir := servertest.Dir(t)
	socket := filepath.Join(dir, "metrics.sock")
	d := servertest.Start(t, servertest.Options{Dir: dir, Policy: loadPolicy,
		Env: []string{"CSBD_METRICS=unix:" + socket, "CSBD_AUDIT=" + filepath.Join(dir, "audit"), "CSBD_PROOF_EVERY=0"}})
	d.Dial(t).Run("print(1)")
	p, text := scrape(t, socket)
	w := &watched{page: p, used: map[string]bool{}}

	t.Run("conventions", func(t *testing.T) {
		problems, err := promlint.New(strings.NewReader(text)).Lint()
		assert.NilError(t, err)
		for _, problem := range problems {
			if strings.HasPrefix(problem.Metric, "csbd_") {
				t.Errorf("%s: %s", problem.Metric, problem.Text)
			}
		}
	})
	t.Run("documentation", func(t *testing.T) {
		var rows []string
		for _, name := range p.own() {
			rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, strings.ToLower(p[name].GetType().String()),
				strings.Join(p.labelNames(name), ", "), p[name].GetHelp()))
		}
		var found []string
		for line := range strings.Lines(string(file(t, "docs", "metrics.md"))) {
			if strings.HasPrefix(line, "| `csbd_") {
				found = append(found, line)
			}
		}
		slices.Sort(found)
		slices.Sort(rows)
		assert.Check(t, slices.Equal(found, rows), "docs/metrics.md should have these rows:\n%s", strings.Join(rows, ""))
	})
	t.Run("dashboard", func(t *testing.T) { w.dashboard(t, file(t, "packaging", "grafana", "csbd.json")) })
	t.Run("alerts", func(t *testing.T) { w.alerts(t, file(t, "packaging", "prometheus", "alerts.yaml")) })
	t.Run("nothing is forgotten", func(t *testing.T) {
		for _, name := range p.own() {
			assert.Check(t, w.used[name], "%s is neither on the dashboard nor in an alert", name)
		}
	})
	t.Run("wrong ones are found", func(t *testing.T) {
		for _, expr := range []string{
			"csbd_executions", "csbd_executions_total_bucket", `csbd_executions_total{uid="0"}`, "sum by (uid) (csbd_executions_total)",
			"csbd_queue_seconds", "sum by (le) (csbd_ready)", "csbd_ready + on (profile) csbd_sandboxes", "csbd_ready{", "rate(csbd_executions_total)", "node_load1",
			"rate(csbd_ready[5m])", "histogram_quantile(0.9, rate(csbd_queue_seconds_count[5m]))",
		} {
			_, err := w.query(expr)
			assert.Check(t, err != nil, expr)
		}
		for _, expr := range []string{"csbd_ready", `up{job="csbd"}`, "histogram_quantile(0.9, sum by (le, profile) (rate(csbd_queue_seconds_bucket[5m])))"} {
			_, err := w.query(expr)
			assert.Check(t, err, expr)
		}
	})
}

// A watched is a page, and which of its metrics something asks for.
type watched struct {
	page page
	used map[string]bool
}

// labelsOf are those of what a query can name: a metric, or a part of a
// histogram or summary.
func (w *watched) labelsOf(name string) (family string, labels []string, ok bool) {
	if name == "up" { // Prometheus's own
		return "", fromTarget, true
	}
	if f := w.page[name]; f != nil && f.GetMetric()[0].Histogram == nil {
		return name, append(w.page.labelNames(name), fromTarget...), true
	}
	for _, part := range []string{"_bucket", "_count", "_sum"} {
		family, cut := strings.CutSuffix(name, part)
		if f := w.page[family]; cut && f != nil && f.GetMetric()[0].Histogram != nil {
			labels := append(w.page.labelNames(family), fromTarget...)
			if part == "_bucket" {
				labels = append(labels, "le")
			}
			return family, labels, true
		}
	}
	return "", nil, false
}

// query checks that all that an expression asks for exists, and returns the
// labels of it.
func (w *watched) query(expr string) (all []string, _ error) {
	e, err := parser.ParseExpr(expr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	var errs []error
	below := func(n parser.Node) (labels []string) {
		parser.Inspect(n, func(n parser.Node, _ []parser.Node) error {
			if s, ok := n.(*parser.VectorSelector); ok {
				_, more, _ := w.labelsOf(s.Name)
				labels = append(labels, more...)
			}
			return nil
		})
		return labels
	}
	need := func(n parser.Node, names []string, what string) {
		have := below(n)
		for _, name := range names {
			if !slices.Contains(have, name) {
				errs = append(errs, fmt.Errorf("%s: %s label %q, which nothing there has", expr, what, name))
			}
		}
	}
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			family, labels, ok := w.labelsOf(n.Name)
			if !ok {
				errs = append(errs, fmt.Errorf("%s: there is no %q", expr, n.Name))
				return nil
			}
			w.used[family] = true
			for _, m := range n.LabelMatchers {
				if m.Name != model.MetricNameLabel && !slices.Contains(labels, m.Name) {
					errs = append(errs, fmt.Errorf("%s: %s has no label %q", expr, n.Name, m.Name))
				}
			}
		case *parser.AggregateExpr:
			need(n, n.Grouping, "grouping by")
		case *parser.BinaryExpr:
			if v := n.VectorMatching; v != nil {
				need(n.LHS, v.MatchingLabels, "matching by")
				need(n.RHS, v.MatchingLabels, "matching by")
			}
		case *parser.Call:
			switch n.Func.Name {
			case "rate", "increase":
				if r, ok := n.Args[0].(*parser.MatrixSelector); ok {
					name := r.VectorSelector.(*parser.VectorSelector).Name
					if family, _, ok := w.labelsOf(name); ok && family != "" && w.page[family].GetMetric()[0].Gauge != nil {
						errs = append(errs, fmt.Errorf("%s: the %s of a gauge, %s", expr, n.Func.Name, name))
					}
				}
			case "histogram_quantile":
				need(n.Args[1], []string{"le"}, "histogram_quantile wants")
			}
		}
		return nil
	})
	return append(below(e), fromTarget...), errors.Join(errs...)
}

var (
	dashboardVariable = regexp.MustCompile(`\$\{?([A-Za-z_]+)\}?`)
	labelValues       = regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)
	legendLabel       = regexp.MustCompile(`{{\s*([^}\s]+)\s*}}`)
	alertLabel        = regexp.MustCompile(`\$labels\.(\w+)`)
)

// dashboard checks all queries of a Grafana dashboard, and what Grafana needs
// to load it.
func (w *watched) dashboard(t *testing.T, data []byte) {
	type source struct{ Type, UID string }
	type target struct {
		RefID, Expr, LegendFormat string
		Datasource                source
	}
	var d struct {
		Title, UID    string
		SchemaVersion int
		Panels        []struct {
			ID            int
			Type, Title   string
			Datasource    source
			Targets       []target
			GridPos       struct{ H, W, X, Y int }
			FieldConfig   json.RawMessage
			Options       json.RawMessage
			Collapsed     bool
			Panels        []json.RawMessage
			Description   string
			PluginVersion string
		}
		Templating struct {
			List []struct {
				Name, Type string
				Query      any
				Datasource source
			}
		}
	}
	assert.NilError(t, json.Unmarshal(data, &d))
	// 36 is Grafana 9.0's, 37 9.1's; later ones read it.
	assert.Check(t, d.Title != "" && d.UID != "" && d.SchemaVersion >= 36 && d.SchemaVersion <= 37, "%d", d.SchemaVersion)
	variables := map[string]string{"__rate_interval": "5m"}
	for _, v := range d.Templating.List {
		variables[v.Name] = ".*"
		if v.Type == "datasource" {
			assert.Check(t, v.Query == "prometheus")
			continue
		}
		query, _ := v.Query.(map[string]any)["query"].(string)
		parts := labelValues.FindStringSubmatch(query)
		assert.Assert(t, v.Type == "query" && parts != nil, "%s: %q", v.Name, query)
		_, labels, ok := w.labelsOf(parts[1])
		assert.Check(t, ok && slices.Contains(labels, parts[2]), "%s: %s", v.Name, query)
	}
	assert.Check(t, variables["datasource"] != "", "the datasource has to be chosen")
	expand := func(expr string) string {
		return dashboardVariable.ReplaceAllStringFunc(expr, func(s string) string {
			name := dashboardVariable.FindStringSubmatch(s)[1]
			value, ok := variables[name]
			assert.Check(t, ok, "there is no variable %s: %s", name, expr)
			return value
		})
	}
	ids, queries := map[int]bool{}, 0
	for i, p := range d.Panels {
		assert.Check(t, p.ID > 0 && !ids[p.ID] && p.Title != "", "%q: id %d", p.Title, p.ID)
		ids[p.ID] = true
		pos := p.GridPos
		assert.Check(t, pos.W > 0 && pos.H > 0 && pos.X >= 0 && pos.X+pos.W <= 24, "%q: %+v", p.Title, pos)
		for _, other := range d.Panels[:i] {
			o := other.GridPos
			assert.Check(t, pos.X >= o.X+o.W || o.X >= pos.X+pos.W || pos.Y >= o.Y+o.H || o.Y >= pos.Y+pos.H, "%q lies on %q", p.Title, other.Title)
		}
		if p.Type == "row" {
			continue
		}
		assert.Check(t, p.Type == "timeseries" || p.Type == "stat", "%q: %s", p.Title, p.Type)
		assert.Check(t, len(p.Targets) > 0, p.Title)
		refs := map[string]bool{}
		for _, q := range p.Targets {
			queries++
			assert.Check(t, q.Datasource.UID == "${datasource}" && q.Datasource.Type == "prometheus" && q.RefID != "" && !refs[q.RefID], "%q", p.Title)
			refs[q.RefID] = true
			labels, err := w.query(expand(q.Expr))
			assert.Check(t, err, p.Title)
			for _, l := range legendLabel.FindAllStringSubmatch(q.LegendFormat, -1) {
				assert.Check(t, slices.Contains(labels, l[1]), "%q: the legend %s", p.Title, q.LegendFormat)
			}
		}
	}
	assert.Check(t, queries > 30, "%d", queries)
}

// alerts checks a file of Prometheus's rules.
func (w *watched) alerts(t *testing.T, data []byte) {
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	assert.NilError(t, decoder.Decode(&rules))
	assert.Check(t, errors.Is(decoder.Decode(new(any)), io.EOF))
	names := map[string]bool{}
	for _, group := range rules.Groups {
		assert.Check(t, group.Name != "")
		for _, r := range group.Rules {
			assert.Check(t, model.LegacyValidation.IsValidLabelName(r.Alert) && strings.HasPrefix(r.Alert, "Csbd") && !names[r.Alert], r.Alert)
			names[r.Alert] = true
			if r.For != "" {
				_, err := model.ParseDuration(r.For)
				assert.Check(t, err, r.Alert)
			}
			assert.Check(t, r.Labels["severity"] == "critical" || r.Labels["severity"] == "warning", r.Alert)
			assert.Check(t, r.Annotations["summary"] != "", r.Alert)
			labels, err := w.query(r.Expr)
			assert.Check(t, err, r.Alert)
			e, err := parser.ParseExpr(r.Expr)
			if assert.Check(t, err, r.Alert) {
				assert.Check(t, e.Type() == parser.ValueTypeVector, "%s: a %s", r.Alert, e.Type())
			}
			for _, text := range r.Annotations {
				for _, l := range alertLabel.FindAllStringSubmatch(text, -1) {
					assert.Check(t, slices.Contains(labels, l[1]), "%s: %s", r.Alert, text)
				}
			}
		}
	}
	assert.Check(t, len(names) >= 10, "%d", len(names))
}
