package main_test

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// answers is a csbd that answers every request with the same result.
func answers(t *testing.T, result string) (socket string) {
	t.Helper()
	return fake(t, func(_ string, id json.RawMessage) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
	})
}

const wellAnswer = `{"version":{"version":"1.2.3","commit":"abc","protocol":1,"runtime":"v9","go":"go1.0"},"uptime":7985.4,"ready":true,` +
	`"running":2,"queued":1,"connections":3,"executions":{"timeout":2,"ok":12,"error":2},"refused":{"denied":1},"policy_generation":4,` +
	`"pools":[{"image":"python","profile":"default","want":2,"max":4,"ready":2,"starting":1,"hits":3,"misses":1,"launched":7,"failed":0,"died":0,` +
	`"refill_time":0.2104,"age":2.25,"memory":120537088,"snapshot":"ready","snapshot_age":3605.1},` +
	`{"image":"big","profile":"slow","want":1,"max":1,"ready":0,"starting":0,"hits":0,"misses":0,"launched":1,"failed":3,"died":1,` +
	`"refill_time":0,"age":0,"memory":0,"snapshot":"none","snapshot_age":0,"problem":"the last start failed"}],` +
	`"audit":{"written":17,"lost":0},"caller":{"uid":4200042,"groups":[0,4200043],"running":1,"queued":0,"executions":["e901170d81077d46"]},"new":1}`

const wellPage = `csbd is ready

version     1.2.3, runsc v9
uptime      2h13m5s
policy      generation 4
now         running 2, queued 1, connections 3
executions  16: 12 ok, 2 error, 2 timeout
refused     1: 1 denied
audit       17 lines written, 0 lost
you         uid 4200042, groups 0 (root), 4200043
yours       running 1, queued 0: e901170d81077d46

IMAGE   PROFILE  READY  WANT  MAX  STARTING  HITS  MISSES  HIT RATE  REFILL  OLDEST  MEMORY   SNAPSHOT
python  default  2      2     4    1         3     1       75%       210ms   2s      115 MiB  ready, 1h0m5s
big     slow     0      1     1    0         0     0       -         0s      0s      0 B      none
big/slow: 3 of 4 starts failed, 1 died while they waited; the last start failed
`

func TestStatusPage(t *testing.T) {
	t.Parallel()
	socket := answers(t, wellAnswer)
	assert.Equal(t, call{args: []string{"status"}}.run(t, socket), outcome{0, wellPage, ""})
	// Unknown members included.
	assert.Equal(t, call{args: []string{"status", "--json"}}.run(t, socket), outcome{0, wellAnswer + "\n", ""})

	unwell := strings.Replace(wellAnswer, `"ready":true`, `"ready":false,"problem":"it is Monday"`, 1)
	socket = answers(t, unwell)
	page := strings.Replace(wellPage, "csbd is ready", "csbd is NOT READY: it is Monday", 1)
	assert.Equal(t, call{args: []string{"status"}}.run(t, socket), outcome{1, page, ""})
	assert.Equal(t, call{args: []string{"status", "--json"}}.run(t, socket), outcome{1, unwell + "\n", ""})

	o := call{args: []string{"status"}}.run(t, answers(t, `{"ready":true,"version":{},"caller":{}}`))
	for _, part := range []string{"csbd is ready\n", "executions  none\n", "refused     none\n", "no pools"} {
		assert.Check(t, o.code == 0 && strings.Contains(o.stdout, part), "%+v does not say %q", o, part)
	}
	o = call{args: []string{"status"}}.run(t, answers(t, `"fine"`))
	assert.Check(t, o.code == 125 && o.stdout == "" && strings.Contains(o.stderr, "read the answer"), "%+v", o)
}

// Of a real csbd, whose exit status scripts can wait for.
func TestStatusOfCsbd(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{NoImages: true})
	o := call{args: []string{"status"}}.run(t, d.Socket)
	assert.Check(t, o.code == 1 && strings.HasPrefix(o.stdout, "csbd is NOT READY: no sandbox has been started yet\n") && o.stderr == "", "%+v", o)
	d.Stop(t)
	o = call{args: []string{"status"}}.run(t, d.Socket)
	assert.Check(t, o.code == 125 && o.stdout == "" && strings.Contains(o.stderr, "hint: "), "%+v", o)
}

// Who cannot answer is not waited for for ever.
func TestStatusOfNobody(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(servertest.Dir(t), "csbd.sock")
	l, err := net.Listen("unix", socket)
	assert.NilError(t, err)
	t.Cleanup(func() { l.Close() })
	o := call{args: []string{"status"}}.run(t, socket)
	assert.Check(t, o.code == 125 && o.stdout == "" && strings.Contains(o.stderr, "deadline"), "%+v", o)
}
