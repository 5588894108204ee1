package main_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// csbd runs the command to its end.
func csbd(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, servertest.Binary(t, "csbd"), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	cmd.Dir = servertest.Dir(t)
	// One that starts although it should not puts its things away.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	assert.Assert(t, ctx.Err() == nil, "csbd does not end:\n%s", &errs)
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// environment that csbd could start with, of a csbd that was never started.
func environment(t *testing.T) []string {
	t.Helper()
	dir := servertest.Dir(t)
	policy := filepath.Join(dir, "policy.yaml")
	assert.NilError(t, os.WriteFile(policy, []byte(servertest.Policy), 0o644))
	return []string{
		"CSBD_SOCKET=" + filepath.Join(dir, "csbd.sock"), "CSBD_STATE_DIR=" + filepath.Join(dir, "state"),
		"CSBD_IMAGE_DIR=" + filepath.Join(dir, "images"), "CSBD_POLICY=" + policy, "CSBD_RUNSC=" + imagetest.Runsc(t), "CSBD_SENTRY=" + imagetest.Sentry(t),
	}
}

func TestBadEnvironment(t *testing.T) {
	t.Parallel()
	servertest.NeedRoot(t)
	base := environment(t)
	for _, variable := range []string{
		"CSBD_SOCKET_MODE=0999",
		"CSBD_SOCKET_MODE=rw-rw----",
		"CSBD_SOCKET_MODE=01777",
		"CSBD_SOCKET_GROUP=no-such-group",
		"CSBD_EXECUTIONS=many",
		"CSBD_EXECUTIONS=-1",
		"CSBD_STOP_TIMEOUT=20",
		"CSBD_STOP_TIMEOUT=soon",
		"CSBD_STOP_TIMEOUT=-1s",
		"CSBD_LOG_LEVEL=loud",
		"CSBD_LOG_FORMAT=xml",
		"CSBD_CGROUP=relative",
		"CSBD_CGROUP=/csbd/../..",
		// Nothing that the daemon could do with these.
		"CSBD_SOCKET=",
		"CSBD_STATE_DIR=",
		"CSBD_POLICY=",
		// Not for everybody on the network.
		"CSBD_METRICS=0.0.0.0:9464",
		"CSBD_METRICS=:9464",
		"CSBD_METRICS=[::]:9464",
		"CSBD_METRICS=192.0.2.1:9464",
		"CSBD_METRICS=[::ffff:192.0.2.1]:9464",
		"CSBD_METRICS=localhost:9464", // whatever a resolver makes of it
		"CSBD_METRICS=127.0.0.1",
		"CSBD_METRICS=127.0.0.1:http",
		"CSBD_METRICS=/run/csbd/metrics.sock",
		"CSBD_METRICS=unix:metrics.sock",
		"CSBD_METRICS_GROUP=nogroup", // of nothing
		"CSBD_PPROF=pprof.sock",
		"CSBD_PPROF=127.0.0.1:6060",
		// Misspelt and forgotten ones.
		"CSBD_SOKET=/run/csbd.sock",
		"CSBD_TIMEOUT=3s",
	} {
		t.Run(variable, func(t *testing.T) {
			t.Parallel()
			name, _, _ := strings.Cut(variable, "=")
			code, stdout, stderr := csbd(t, append(base, variable))
			assert.Equal(t, code, 1, "%s", stderr)
			assert.Equal(t, stdout, "")
			assert.Check(t, strings.Contains(stderr, name), "%q does not name %s", stderr, name)
		})
	}
}

// What the help says may be empty may be empty, as an EnvironmentFile of
// systemd leaves it.
func TestEmptyEnvironment(t *testing.T) {
	t.Parallel()
	servertest.Start(t, servertest.Options{NoImages: true, Env: []string{"CSBD_SOCKET_GROUP=", "CSBD_CGROUP=" + os.Getenv("CSBD_CGROUP"), "CSBD_EXECUTIONS="}})
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--help", "-h", "help"} {
		code, help, stderr := csbd(t, nil, flag)
		assert.Equal(t, code, 0)
		assert.Equal(t, stderr, "")
		for _, name := range []string{"SOCKET", "SOCKET_MODE", "SOCKET_GROUP", "POLICY", "STATE_DIR", "IMAGE_DIR", "LAUNCHER", "SENTRY", "RUNSC",
			"PLATFORM", "CGROUP", "EXECUTIONS", "LAUNCHES", "POOL_MEMORY", "SANDBOX_AGE", "SNAPSHOT_AGE", "PROOF_EVERY", "AUDIT", "AUDIT_SIZE", "AUDIT_KEEP", "METRICS", "METRICS_GROUP", "PPROF", "STOP_TIMEOUT", "LOG_LEVEL", "LOG_FORMAT"} {
			documented := false
			for line := range strings.Lines(help) {
				fields := strings.Fields(line)
				documented = documented || len(fields) > 3 && fields[0] == "CSBD_"+name
			}
			assert.Check(t, documented, "CSBD_%s:\n%s", name, help)
		}
	}
	for _, args := range [][]string{{"sreve"}, {"serve", "now"}, {"check"}, {"check", "a", "b"}, {"image"}, {"image", "list", "x"}, {"--socket", "x"}} {
		code, stdout, stderr := csbd(t, nil, args...)
		assert.Check(t, code == 2 && stdout == "" && strings.Contains(stderr, "csbd --help"), "%q: %d %q", args, code, stderr)
	}
	code, stdout, _ := csbd(t, nil, "version")
	assert.Check(t, code == 0 && strings.Contains(stdout, "protocol 1\n"), "%q", stdout)
}

func TestCheck(t *testing.T) {
	t.Parallel()
	file := filepath.Join(servertest.Dir(t), "policy.yaml")
	check := func(text string) (int, string, string) {
		t.Helper()
		assert.NilError(t, os.WriteFile(file, []byte(text), 0o644))
		return csbd(t, nil, "check", file)
	}
	code, stdout, stderr := check(servertest.Policy)
	assert.Check(t, code == 0 && stdout == file+": ok\n" && stderr == "", "%d %q %q", code, stdout, stderr)

	code, stdout, _ = check(strings.Replace(servertest.Policy, `"0"`, "no-such-user", 1))
	assert.Check(t, code == 0 && strings.HasPrefix(stdout, "warning: "+file+":6: rules[0].user: "), "%d %q", code, stdout)

	code, stdout, stderr = check(strings.Replace(servertest.Policy, "environment", "enviroment", 1))
	assert.Check(t, code == 1 && stdout == "", "%d %q", code, stdout)
	assert.Check(t, strings.Contains(stderr, file+":4: profiles.default.enviroment: unknown key") && strings.Contains(stderr, "environment"), "%q", stderr)

	// For the file's owner, what it names is read as well.
	code, _, stderr = check(strings.Replace(servertest.Policy, "environment: [LANG, TZ, GREETING]", "seccomp: missing.json", 1))
	assert.Check(t, code == 1 && strings.Contains(stderr, file+":4: profiles.default.seccomp: ") && strings.Contains(stderr, "missing.json"), "%q", stderr)

	code, _, stderr = csbd(t, nil, "check", file+".none")
	assert.Check(t, code == 1 && strings.Contains(stderr, file+".none"), "%q", stderr)
}

func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	servertest.NeedRoot(t)
	script := func(name, text string) string {
		file := filepath.Join(servertest.Dir(t), name)
		assert.NilError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755))
		return file
	}
	said, err := exec.Command(imagetest.Sentry(t), "--version").Output()
	assert.NilError(t, err)
	version, _, _ := strings.Cut(string(said), "\n")
	broken := `[ "$1" = --version ] && { echo ` + version + `; exit; }; `
	lava := broken + `echo "the floor is lava" >&2; exit 128`
	type row struct {
		name, policy, variable string
		says                   []string
	}
	rows := []row{
		{"policy is wrong", "version: 1\nprofiles: {default: {memory: much}}\nrules: []\n", "", []string{"policy.yaml:2: profiles.default.memory: ", "much"}},
		{"policy has a future version", "version: 2\nprofiles: {default: {}}\nrules: []\n", "", []string{"policy.yaml:1: version: "}},
		{"no policy", "", "CSBD_POLICY=/nonexistent/policy.yaml", []string{"/nonexistent/policy.yaml", "no such file"}},
		{"state directory cannot be made", "", "CSBD_STATE_DIR=/proc/csbd", []string{"/proc/csbd"}},
		{"no such launcher", "", "CSBD_LAUNCHER=magic", []string{"CSBD_LAUNCHER", "magic"}},
		{"runsc cannot run", "", "CSBD_RUNSC=" + script("runsc", lava), []string{"self-test of profile default", "the floor is lava"}},
		{"runsc runs something else", "", "CSBD_RUNSC=" + script("runsc", broken+"echo hello"), []string{"self-test of profile default"}},
		{"sentry cannot run", "", "CSBD_SENTRY=" + script("csbd-sentry", lava), []string{"prepare namespaces", "the floor is lava"}},
		{"sentry of another gVisor", "", "CSBD_SENTRY=" + script("csbd-sentry", "echo runsc version other"), []string{"gVisor other", "install them together"}},
		// It ends well, and has prepared nothing.
		{"sentry does nothing", "", "CSBD_SENTRY=" + script("csbd-sentry", broken), []string{"prepare namespaces"}},
	}
	for _, variable := range []string{"CSBD_RUNSC", "CSBD_SENTRY"} {
		rows = append(rows,
			row{variable + " does not exist", "", variable + "=/nonexistent/runsc", []string{"/nonexistent/runsc", "no such file"}},
			row{variable + " does nothing", "", variable + "=/bin/false", []string{"/bin/false --version", "exit status 1"}},
			row{variable + " is something else", "", variable + "=/bin/true", []string{"/bin/true --version", "unexpected output"}})
	}
	for _, test := range rows {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := servertest.Options{Policy: test.policy, Unready: true}
			if test.variable != "" {
				o.Env = []string{test.variable}
			}
			if strings.HasPrefix(test.variable, "CSBD_RUNSC=") {
				o.Env = append(o.Env, "CSBD_LAUNCHER=stock")
			}
			d := servertest.Start(t, o)
			assert.Equal(t, d.Wait(t), 1)
			for _, part := range test.says {
				assert.Check(t, strings.Contains(d.Log(), part), "%s\ndoes not say %q", d.Log(), part)
			}
			assert.Check(t, !strings.Contains(d.Log(), `"msg":"serving"`))
		})
	}
}
