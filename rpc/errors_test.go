package rpc

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sourcegraph/jsonrpc2"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// codes are the error codes by name, as clients in other languages have them.
// Neither numbers nor words ever change.
var codes = map[string]struct {
	code int64
	kind string
}{
	"CodeParseError":     {-32700, "parse_error"},
	"CodeInvalidRequest": {-32600, "invalid_request"},
	"CodeMethodNotFound": {-32601, "method_not_found"},
	"CodeInvalidParams":  {-32602, "invalid_params"},
	"CodeInternal":       {-32603, "internal"},
	"CodeDenied":         {-32001, "denied"},
	"CodeBusy":           {-32002, "busy"},
	"CodeUnknownImage":   {-32003, "unknown_image"},
	"CodeShuttingDown":   {-32004, "shutting_down"},
	"CodeCancelled":      {-32005, "cancelled"},
}

func TestEveryCodeHasAKind(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	assert.NilError(t, err)
	var declared []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			for _, name := range spec.Names {
				if strings.HasPrefix(name.Name, "Code") {
					declared = append(declared, name.Name)
				}
			}
		}
		return true
	})
	slices.Sort(declared)
	assert.DeepEqual(t, declared, slices.Sorted(maps.Keys(codes)))
	for name, c := range codes {
		assert.Equal(t, kinds[c.code], c.kind, name)
		assert.Equal(t, Errorf(c.code, "x").Data.Kind, c.kind, name)
	}
	assert.Equal(t, len(kinds), len(codes))
}

// overTheWire is what the other side makes of an error.
func overTheWire(t *testing.T, e *Error) *Error {
	t.Helper()
	data, err := json.Marshal(e.Wire())
	assert.NilError(t, err)
	var w jsonrpc2.Error
	assert.NilError(t, json.Unmarshal(data, &w))
	return fromWire(&w)
}

func TestErrorsCrossTheWire(t *testing.T) {
	for name, c := range codes {
		full := Errorf(c.code, "%s: 100%% \"wrong\"\nü", name)
		full.Data.Field, full.Data.Rule, full.Data.RetryAfter, full.Data.ID = "limits.memory", "rule 2 (group csb)", 1.25, "0123456789abcdef"
		for _, e := range []*Error{full, Errorf(c.code, "short"), Errorf(c.code, "")} {
			got := overTheWire(t, e)
			assert.DeepEqual(t, got, e)
			// And back again.
			assert.DeepEqual(t, overTheWire(t, got), e)
		}
	}
}

func TestWireForm(t *testing.T) {
	e := Busy(1500*time.Millisecond, "%d are running", 4)
	data, err := json.Marshal(e.Wire())
	assert.NilError(t, err)
	assert.Equal(t, string(data), `{"code":-32002,"message":"4 are running","data":{"kind":"busy","retry_after":1.5}}`)
	assert.Error(t, e, "4 are running")

	data, err = json.Marshal(InvalidParams("args[3]", "no").Wire())
	assert.NilError(t, err)
	assert.Equal(t, string(data), `{"code":-32602,"message":"no","data":{"kind":"invalid_params","field":"args[3]"}}`)
}

// Errors of another csbd, older or newer, or of none.
func TestForeignErrors(t *testing.T) {
	raw := func(s string) *json.RawMessage { m := json.RawMessage(s); return &m }
	for _, test := range []struct {
		name string
		wire jsonrpc2.Error
		want Error
	}{
		{"no data", jsonrpc2.Error{Code: CodeBusy, Message: "m"}, Error{CodeBusy, "m", ErrorData{Kind: "busy"}}},
		{"null", jsonrpc2.Error{Code: CodeBusy, Data: raw("null")}, Error{Code: CodeBusy, Data: ErrorData{Kind: "busy"}}},
		{"a word", jsonrpc2.Error{Code: CodeBusy, Data: raw(`"x"`)}, Error{Code: CodeBusy, Data: ErrorData{Kind: "busy"}}},
		{"more members", jsonrpc2.Error{Code: CodeDenied, Data: raw(`{"rule":"r","more":[1]}`)}, Error{Code: CodeDenied, Data: ErrorData{Kind: "denied", Rule: "r"}}},
		{"another kind", jsonrpc2.Error{Code: -32099, Data: raw(`{"kind":"tired"}`)}, Error{Code: -32099, Data: ErrorData{Kind: "tired"}}},
		{"unknown code", jsonrpc2.Error{Code: 7, Message: "m"}, Error{Code: 7, Message: "m"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			assert.DeepEqual(t, *fromWire(&test.wire), test.want)
		})
	}
}

func TestQuantity(t *testing.T) {
	for text, want := range map[string]Quantity{`"2s"`: "2s", `"64MiB"`: "64MiB", `""`: "", `2`: "2", `1.5`: "1.5", `-1`: "-1",
		`1e3`: "1e3", `67108864`: "67108864", `12345678901234567890123`: "12345678901234567890123", `"\u0031s"`: "1s"} {
		var q Quantity
		assert.NilError(t, json.Unmarshal([]byte(text), &q), text)
		assert.Equal(t, q, want)
	}
	for _, text := range []string{`true`, `{}`, `[]`, `[1]`} {
		var q Quantity
		err := json.Unmarshal([]byte(text), &q)
		var wrong *json.UnmarshalTypeError
		assert.Check(t, errors.As(err, &wrong), "%s: %v", text, err)

		// In an object the error says where.
		var p ExecuteParams
		err = json.Unmarshal([]byte(`{"limits":{"memory":`+text+`}}`), &p)
		assert.Assert(t, errors.As(err, &wrong), "%s: %v", text, err)
		assert.Equal(t, wrong.Field, "limits.memory", text)
	}
	var p ExecuteParams
	assert.NilError(t, json.Unmarshal([]byte(`{"limits":{"timeout":null,"memory":1}}`), &p))
	assert.Check(t, p.Limits.Timeout == nil)
	assert.Equal(t, *p.Limits.Memory, Quantity("1"))

	// A client's quantity arrives as it was meant, written as a string.
	data, err := json.Marshal(LimitParams{Timeout: p.Limits.Memory})
	assert.NilError(t, err)
	assert.Equal(t, string(data), `{"timeout":"1"}`)
}

// What is not asked for is not sent: csbd's defaults stay csbd's.
func TestRequestIsSparse(t *testing.T) {
	data, err := json.Marshal(ExecuteParams{})
	assert.NilError(t, err)
	assert.Equal(t, string(data), "{}")
	empty := ""
	data, err = json.Marshal(ExecuteParams{Code: &empty, Stdin: &empty, Files: []File{{Path: "a"}}})
	assert.NilError(t, err)
	assert.Equal(t, string(data), `{"code":"","stdin":"","files":[{"path":"a"}]}`)
}

// Members that clients may rely on are there even when they are zero.
func TestResultHasItsMembers(t *testing.T) {
	data, err := json.Marshal(Result{})
	assert.NilError(t, err)
	var m map[string]any
	assert.NilError(t, json.Unmarshal(data, &m))
	assert.DeepEqual(t, slices.Sorted(maps.Keys(m)),
		[]string{"execution_time", "exit_code", "id", "image", "isolation", "limits", "status", "stderr", "stdout", "usage"})
	assert.Check(t, is.Contains(m["usage"], "warm"))
	assert.Check(t, is.Contains(m["usage"], "queue_time"))
}
