package server_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// Under concurrent load every execution and every refusal has one line, which
// has nothing of the program.
func TestAudit(t *testing.T) {
	t.Parallel()
	file := filepath.Join(servertest.Dir(t), "audit")
	d := servertest.Start(t, servertest.Options{Env: []string{"CSBD_AUDIT=" + file}})
	const canary = "fb6f0c2cCANARY"
	var all sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]bool{}
	for range 3 {
		c := d.Dial(t)
		all.Go(func() {
			for range 3 {
				a, err := c.Try("execute", map[string]any{"code": "print('" + canary + "')", "args": []string{canary}, "stdin": canary})
				var r servertest.Result
				if assert.Check(t, err) && assert.Check(t, json.Unmarshal(a.Result, &r)) {
					mu.Lock()
					ids[r.ID] = true
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	c := d.Dial(t)
	c.Call("execute", map[string]any{"code": canary, "limits": map[string]any{"memory": "64GiB"}}).Failed(t, "denied")
	c.Call("execute", map[string]any{canary: 1}).Failed(t, "invalid_params")
	c.Send(canary)
	c.Receive().Failed(t, "parse_error")
	d.Stop(t)
	data, err := os.ReadFile(file)
	assert.NilError(t, err)
	assert.Check(t, !strings.Contains(string(data), "CANARY"))
	kinds := map[string]int{}
	for line := range strings.Lines(string(data)) {
		var l struct {
			Event, Kind, ID, SHA256, Executable, Status string
			PID                                         int
		}
		assert.NilError(t, json.Unmarshal([]byte(line), &l))
		kinds[l.Event+l.Kind]++
		assert.Check(t, l.PID == os.Getpid() && l.Executable != "", "%s", line)
		if l.Event == "execution" {
			assert.Check(t, ids[l.ID] && len(l.SHA256) == 64 && l.Status == "ok", "%s", line)
			delete(ids, l.ID)
		}
	}
	assert.DeepEqual(t, kinds, map[string]int{"execution": 9, "refusaldenied": 1, "refusalinvalid_params": 1, "refusalparse_error": 1})
	assert.Check(t, len(ids) == 0, "without a line: %v", ids)
}
