package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// fake listens as a csbd would and answers each line with what answer says;
// "" closes the connection.
func fake(t *testing.T, answer func(method string, id json.RawMessage) string) (socket string) {
	t.Helper()
	socket = filepath.Join(servertest.Dir(t), "csbd.sock")
	l, err := net.Listen("unix", socket)
	assert.NilError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for in := bufio.NewScanner(c); in.Scan(); {
					var request struct {
						ID     json.RawMessage
						Method string
					}
					_ = json.Unmarshal(in.Bytes(), &request)
					line := answer(request.Method, request.ID)
					if line == "" {
						return
					}
					fmt.Fprintln(c, line)
				}
			}()
		}
	}()
	return socket
}

func TestHints(t *testing.T) {
	t.Parallel()
	dir := servertest.Dir(t)
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	assert.NilError(t, err)
	l.SetUnlinkOnClose(false)
	l.Close()
	file := filepath.Join(dir, "file")
	assert.NilError(t, os.WriteFile(file, nil, 0o666))
	datagrams := filepath.Join(dir, "datagrams.sock")
	g, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: datagrams, Net: "unixgram"})
	assert.NilError(t, err)
	t.Cleanup(func() { g.Close() })
	closed := filepath.Join(dir, "closed.sock")
	c, err := net.Listen("unix", closed)
	assert.NilError(t, err)
	t.Cleanup(func() { c.Close() })
	assert.NilError(t, os.Chmod(closed, 0o660))

	other := fake(t, func(method string, id json.RawMessage) string {
		if method == "version" {
			return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"version":"9.8.7","protocol":2,"runtime":"x","go":"x"}}`, id)
		}
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"there is no method %s"}}`, id, method)
	})
	hangsUp := fake(t, func(string, json.RawMessage) string { return "" })
	talksNonsense := fake(t, func(string, json.RawMessage) string { return "220 mail.example.org ESMTP" })
	newer := fake(t, func(_ string, id json.RawMessage) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"exit_code":5,"stdout":"x","stderr":"","status":"error","new":[1,{"a":"<"}]}}`, id)
	})

	for _, test := range []struct {
		name, socket string
		as           *syscall.Credential
		says         []string
	}{
		{"no socket", filepath.Join(dir, "none.sock"), nil, []string{"none.sock", "no such file", "hint: ", "systemctl start", "--socket", "CSBD_SOCKET"}},
		{"nobody listens", stale, nil, []string{"stale.sock", "connection refused", "hint: csbd is not running"}},
		{"not a socket", file, nil, []string{file}},
		{"another kind of socket", datagrams, nil, []string{"hint: ", "not csbd's socket"}},
		{"another kind of server", talksNonsense, nil, nil},
		{"crash", hangsUp, nil, []string{"closed the connection", "hint: ", "log"}},
		{"another version", other, nil, []string{"hint: ", "protocol version 1", "9.8.7", "version 2", "same version"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, args := range [][]string{{"-c", "print(1)"}, {"status"}, {"top"}} {
				o := call{args: args}.run(t, test.socket)
				assert.Check(t, o.code == 125 && o.stdout == "" && strings.HasPrefix(o.stderr, "csbctl: "), "%+v", o)
				for _, part := range test.says {
					assert.Check(t, strings.Contains(o.stderr, part), "%q does not say %q", o.stderr, part)
				}
			}
		})
	}
	t.Run("permission denied", func(t *testing.T) {
		t.Parallel()
		servertest.NeedRoot(t)
		o := call{args: []string{"-c", "1"}, as: &syscall.Credential{Uid: 42005, Gid: 42005}}.run(t, closed)
		assert.Check(t, o.code == 125, "%+v", o)
		for _, part := range []string{"permission denied", "hint: ", "group root", "usermod"} {
			assert.Check(t, strings.Contains(o.stderr, part), "%q does not say %q", o.stderr, part)
		}
	})
	t.Run("version without csbd", func(t *testing.T) {
		t.Parallel()
		o := call{args: []string{"version", "--json"}}.run(t, stale)
		assert.Check(t, o.code == 125 && strings.HasPrefix(o.stdout, `{"csbctl":{`) && strings.Contains(o.stderr, "hint: "), "%+v", o)
		o = call{args: []string{"version"}}.run(t, stale)
		assert.Check(t, o.code == 125 && strings.HasPrefix(o.stdout, "csbctl devel, ") && strings.Count(o.stdout, "\n") == 1, "%+v", o)
	})
	t.Run("a newer csbd", func(t *testing.T) {
		t.Parallel()
		o := call{args: []string{"-c", "1"}}.run(t, newer)
		assert.Equal(t, o, outcome{5, `{"exit_code":5,"stdout":"x","stderr":"","status":"error","new":[1,{"a":"<"}]}` + "\n", ""})
	})
}
