package main_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// browser asks whoever listens on a Unix socket.
func browser(socket string) *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}

func get(t *testing.T, c *http.Client, url string) (status int, body string) {
	t.Helper()
	r, err := c.Get(url)
	assert.NilError(t, err)
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	assert.NilError(t, err)
	return r.StatusCode, string(data)
}

// address is where csbd's log says that it serves what.
func address(t *testing.T, d *servertest.Daemon, what string) string {
	t.Helper()
	lines := d.Lines(t, what)
	assert.Assert(t, len(lines) == 1, "%s", d.Log())
	return lines[0]["address"].(string)
}

// On a loopback address there is the page, for GET, and nothing else.
func TestMetricsOnLoopback(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"127.0.0.1:0", "[::1]:0", "127.11.12.13:0"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			if l, err := net.Listen("tcp", where); err != nil && strings.HasPrefix(where, "[") && os.Getenv("CI") != "true" {
				t.Skipf("no IPv6 here: %v", err)
			} else if err == nil {
				l.Close()
			}
			d := servertest.Start(t, servertest.Options{NoImages: true, Env: []string{"CSBD_METRICS=" + where}})
			base := "http://" + address(t, d, "metrics")
			assert.Check(t, strings.HasPrefix(base, "http://"+strings.TrimSuffix(where, "0")))
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
			status, page := get(t, c, base+"/metrics")
			assert.Check(t, status == 200 && strings.Contains(page, "\ncsbd_ready 0\n"), "%d %s", status, page)
			for _, path := range []string{"/", "/metrics/", "/metricsx", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars"} {
				status, _ := get(t, c, base+path)
				assert.Check(t, status == 404, "%s: %d", path, status)
			}
			for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
				r, err := http.NewRequest(method, base+"/metrics", strings.NewReader("x"))
				assert.NilError(t, err)
				answer, err := c.Do(r)
				assert.NilError(t, err)
				answer.Body.Close()
				assert.Check(t, answer.StatusCode == 405, "%s: %d", method, answer.StatusCode)
			}
			// As bad clients are.
			r, err := http.NewRequest("GET", base+"/metrics", nil)
			assert.NilError(t, err)
			r.Header.Set("X-Large", strings.Repeat("x", 16<<10))
			answer, err := c.Do(r)
			assert.NilError(t, err)
			answer.Body.Close()
			assert.Check(t, answer.StatusCode == 431, "%d", answer.StatusCode)
		})
	}
}

// Clients that connect and say nothing cost csbd a few connections for a few
// seconds.
func TestMetricsAreNotHeldUp(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{NoImages: true, Env: []string{"CSBD_METRICS=127.0.0.1:0"}})
	where := address(t, d, "metrics")
	closed := make(chan time.Duration, 64)
	start := time.Now()
	for range cap(closed) {
		c, err := net.Dial("tcp", where)
		assert.NilError(t, err)
		t.Cleanup(func() { c.Close() })
		go func() {
			_, _ = bufio.NewReader(c).ReadByte()
			closed <- time.Since(start)
		}()
	}
	soon := 0
	for range cap(closed) {
		select {
		case after := <-closed:
			if after < 3*time.Second {
				soon++
			}
		case <-time.After(20 * time.Second):
			t.Fatal("a silent connection stays")
		}
	}
	assert.Check(t, soon == 64-16, "%d of 64 were turned away at once", soon)
	status, _ := get(t, &http.Client{Timeout: 10 * time.Second}, "http://"+where+"/metrics")
	assert.Equal(t, status, 200)
}

// The socket of the metrics is its group's, and is treated as csbd's own is.
func TestMetricsSocket(t *testing.T) {
	t.Parallel()
	dir := servertest.Dir(t)
	path := filepath.Join(dir, "metrics.sock")
	o := servertest.Options{NoImages: true, Dir: dir, Env: []string{"CSBD_METRICS=unix:" + path, "CSBD_METRICS_GROUP=43000"}}
	socketAt(t, path) // a stale one
	d := servertest.Start(t, o)
	info, err := os.Lstat(path)
	assert.NilError(t, err)
	assert.Check(t, info.Mode() == fs.ModeSocket|0o660 && info.Sys().(*syscall.Stat_t).Gid == 43000, "%v", info)
	status, page := get(t, browser(path), "http://csbd/metrics")
	assert.Check(t, status == 200 && strings.Contains(page, "csbd_build_info{"), "%d %s", status, page)
	as := func(group uint32) error {
		cmd := exec.Command("socat", "-u", "OPEN:/dev/null", "UNIX-CONNECT:"+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 42001, Gid: group}}
		cmd.Dir = "/"
		return cmd.Run()
	}
	assert.NilError(t, as(43000))
	assert.Check(t, as(43001) != nil, "a stranger connects")
	d.Stop(t)
	_, err = os.Lstat(path)
	assert.Check(t, os.IsNotExist(err), "the socket is left: %v", err)

	for name, made := range map[string]func(){
		"not a socket":            func() { assert.NilError(t, os.WriteFile(path, []byte("precious"), 0o600)) },
		"another process listens": func() { l, err := net.Listen("unix", path); assert.NilError(t, err); t.Cleanup(func() { l.Close() }) },
	} {
		made()
		for _, variable := range []string{"CSBD_METRICS=unix:" + path, "CSBD_PPROF=" + path} {
			d := servertest.Start(t, servertest.Options{NoImages: true, Env: []string{variable}, Unready: true})
			assert.Check(t, d.Wait(t) == 1 && strings.Contains(d.Log(), "listen on "+path+": ") && strings.Contains(d.Log(), name), "%s", d.Log())
		}
		assert.NilError(t, os.Remove(path))
	}
	d = servertest.Start(t, servertest.Options{NoImages: true, Env: []string{"CSBD_METRICS=unix:" + path, "CSBD_METRICS_GROUP=no-such-group"}, Unready: true})
	assert.Check(t, d.Wait(t) == 1 && strings.Contains(d.Log(), `CSBD_METRICS_GROUP=\"no-such-group\"`) || strings.Contains(d.Log(), `CSBD_METRICS_GROUP="no-such-group"`), "%s", d.Log())
}

// Where csbd may use no IPv4 and IPv6, an address fails with the way out, and a
// Unix socket works.
func TestMetricsWithoutAddressFamilies(t *testing.T) {
	t.Parallel()
	servertest.NeedRoot(t)
	script, err := filepath.Abs("testdata/restrict.py")
	assert.NilError(t, err)
	wrapper := []string{"/usr/bin/python3", script}
	for _, where := range []string{"127.0.0.1:0", "[::1]:0"} {
		d := servertest.Start(t, servertest.Options{NoImages: true, Wrapper: wrapper, Unready: true, Env: []string{"CSBD_METRICS=" + where}})
		assert.Check(t, d.Wait(t) == 1 && strings.Contains(d.Log(), "RestrictAddressFamilies") && strings.Contains(d.Log(), "unix:/PATH"), "%s", d.Log())
	}
	dir := servertest.Dir(t)
	path := filepath.Join(dir, "metrics.sock")
	servertest.Start(t, servertest.Options{NoImages: true, Dir: dir, Wrapper: wrapper, Env: []string{"CSBD_METRICS=unix:" + path}})
	status, _ := get(t, browser(path), "http://csbd/metrics")
	assert.Equal(t, status, 200)
}

// While csbd stops, its metrics say so; then they are gone.
func TestMetricsWhileStopping(t *testing.T) {
	t.Parallel()
	dir := servertest.Dir(t)
	path := filepath.Join(dir, "metrics.sock")
	d := servertest.Start(t, servertest.Options{Dir: dir, Env: []string{"CSBD_METRICS=unix:" + path}})
	c := d.Dial(t)
	c.Send(execute("last", servertest.Occupy+"import time; time.sleep(4)"))
	d.WaitOccupied(t, 1)
	// A connection that is kept alive must not keep csbd alive.
	idle := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer idle.CloseIdleConnections()
	status, _ := get(t, idle, "http://csbd/metrics")
	assert.Equal(t, status, 200)
	d.Signal(t, syscall.SIGTERM)
	d.WaitLog(t, `"msg":"stopping"`)
	status, page := get(t, browser(path), "http://csbd/metrics")
	assert.Check(t, status == 200 && strings.Contains(page, "\ncsbd_executions_running 1\n"), "%d %s", status, page)
	// Scrapes all the way to the end are answered in full or not at all.
	pages := 0
	for !d.Ended() {
		r, err := browser(path).Get("http://csbd/metrics")
		if err != nil {
			continue
		}
		data, err := io.ReadAll(r.Body)
		r.Body.Close()
		assert.Check(t, err == nil && r.StatusCode == 200 && strings.Contains(string(data), "\ncsbd_executions_running "), "%v %d", err, r.StatusCode)
		pages++
	}
	assert.Check(t, pages > 10, "%d", pages)
	assert.Check(t, c.Receive().Executed(t).Status == "ok")
	d.Stop(t)
	_, err := os.Lstat(path)
	assert.Check(t, os.IsNotExist(err), "the socket is left: %v", err)
}

// Profiles are for root: nobody else can connect, and should he, nobody answers.
func TestPprof(t *testing.T) {
	t.Parallel()
	dir := servertest.Dir(t)
	path, page := filepath.Join(dir, "pprof.sock"), filepath.Join(dir, "metrics.sock")
	d := servertest.Start(t, servertest.Options{NoImages: true, Dir: dir, Env: []string{"CSBD_PPROF=" + path, "CSBD_METRICS=unix:" + page}})
	info, err := os.Lstat(path)
	assert.NilError(t, err)
	assert.Check(t, info.Mode() == fs.ModeSocket|0o600 && info.Sys().(*syscall.Stat_t).Uid == 0, "%v", info)
	for query, want := range map[string]string{
		"":                  "Types of profiles available",
		"goroutine?debug=1": "goroutine profile: total",
		"heap?debug=1":      "heap profile: ",
		"cmdline":           "csbd",
		"profile?seconds=1": "\x1f\x8b", // gzip
	} {
		_, body := get(t, browser(path), "http://csbd/debug/pprof/"+query)
		assert.Check(t, strings.Contains(body, want), "%q: %.200q", query, body)
	}
	for _, other := range []string{"/metrics", "/"} {
		status, _ := get(t, browser(path), "http://csbd"+other)
		assert.Check(t, status == 404, "%s: %d", other, status)
	}
	status, _ := get(t, browser(page), "http://csbd/debug/pprof/")
	assert.Check(t, status == 404, "%d", status)

	stranger := func() (stdout, stderr string) {
		cmd := exec.Command("socat", "-t5", "-", "UNIX-CONNECT:"+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 42001, Gid: 42001}}
		cmd.Dir = "/"
		cmd.Stdin = strings.NewReader("GET /debug/pprof/cmdline HTTP/1.0\r\n\r\n")
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run()
		return out.String(), errs.String()
	}
	out, errs := stranger()
	assert.Check(t, out == "" && strings.Contains(errs, "Permission denied"), "%q %q", out, errs)
	assert.Check(t, len(d.Lines(t, "pprof refused")) == 0)
	// Somebody has opened it to all.
	assert.NilError(t, os.Chmod(path, 0o666))
	out, _ = stranger()
	assert.Check(t, out == "", "%q", out)
	refused := d.Lines(t, "pprof refused")
	assert.Check(t, len(refused) == 1 && fmt.Sprint(refused[0]["uid"]) == "42001", "%s", d.Log())
	_, body := get(t, browser(path), "http://csbd/debug/pprof/cmdline")
	assert.Check(t, strings.Contains(body, "csbd"), "root is still let in: %q", body)

	// A profile that is being made does not keep csbd.
	making := make(chan error, 1)
	go func() {
		_, err := browser(path).Get("http://csbd/debug/pprof/profile?seconds=20")
		making <- err
	}()
	d.Eventually(t, "a profile in the making", func() bool {
		_, stacks := get(t, browser(path), "http://csbd/debug/pprof/goroutine?debug=2")
		return strings.Contains(stacks, "pprof.Profile(")
	})
	start := time.Now()
	d.Stop(t)
	assert.Check(t, time.Since(start) < 10*time.Second && <-making != nil)
	_, err = os.Lstat(path)
	assert.Check(t, os.IsNotExist(err), "the socket is left: %v", err)
}
