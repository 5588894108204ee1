package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// TestRetry: csbctl asks again where nothing can have run, and only there.
func TestRetry(t *testing.T) {
	t.Parallel()
	const result = `{"jsonrpc":"2.0","id":%s,"result":{"status":"ok","stdout":"ran\n","exit_code":0}}`
	const failure = `{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":"no","data":{"kind":"%s"}}}`
	for _, test := range []struct {
		name   string
		first  func(id json.RawMessage) string
		asked  int64
		stderr string
	}{
		{"stopping", func(id json.RawMessage) string { return fmt.Sprintf(failure, id, -32004, "shutting_down") }, 2, ""},
		{"busy", func(id json.RawMessage) string { return fmt.Sprintf(failure, id, -32002, "busy") }, 1, "csbctl: no\n"},
		{"internal", func(id json.RawMessage) string { return fmt.Sprintf(failure, id, -32603, "internal") }, 1, "csbctl: no\n"},
		{"cancelled", func(id json.RawMessage) string { return fmt.Sprintf(failure, id, -32005, "cancelled") }, 1, "csbctl: no\n"},
		// It may have run, or be running.
		{"gone with the request", func(json.RawMessage) string { return "" }, 1, "csbctl: csbd closed the connection without an answer\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			socket := fake(t, func(_ string, id json.RawMessage) string {
				if asked.Add(1) == 1 {
					return test.first(id)
				}
				return fmt.Sprintf(result, id)
			})
			o := call{args: []string{"--raw", "-c", "print('ran')"}}.run(t, socket)
			assert.Equal(t, asked.Load(), test.asked)
			if test.stderr == "" {
				assert.Equal(t, o, outcome{stdout: "ran\n"})
				return
			}
			assert.Check(t, o.code == 125 && o.stdout == "" && strings.HasPrefix(o.stderr, test.stderr), "%+v", o)
		})
	}
	t.Run("no csbd comes", func(t *testing.T) {
		t.Parallel()
		path := make(chan string, 1)
		socket := fake(t, func(_ string, id json.RawMessage) string {
			_ = os.Remove(<-path)
			return fmt.Sprintf(failure, id, -32004, "shutting_down")
		})
		path <- socket
		start := time.Now()
		o := call{args: []string{"-c", "1"}}.run(t, socket)
		assert.Check(t, o.code == 125 && strings.HasPrefix(o.stderr, "csbctl: no\n"), "%+v", o)
		took := time.Since(start)
		assert.Check(t, took > 5*time.Second && took < 20*time.Second, "%v", took)
	})
}
