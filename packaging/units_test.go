package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/images/imagetest"
)

func unit(name string) string {
	return filepath.Join(imagetest.Root(), "packaging", "systemd", name)
}

// exposure is what systemd-analyze may say at most, of 10: everything open is
// justified at the end of csbd.service. It grows by a tenth or more when any
// directive is lost.
const exposure = 3.3

func TestSecurity(t *testing.T) {
	out := run(t, "systemd-analyze", "security", "--offline=true", "--no-pager", unit("csbd.service"))
	m := regexp.MustCompile(`Overall exposure level for csbd\.service: ([0-9.]+)`).FindStringSubmatch(out)
	assert.Assert(t, m != nil, "%s", out)
	score, err := strconv.ParseFloat(m[1], 64)
	assert.NilError(t, err)
	t.Logf("systemd-analyze security: %.1f", score)
	assert.Check(t, score <= exposure, "%s", out)

	// What is open is named in the comment that says why.
	_, justified, ok := strings.Cut(read(t, unit("csbd.service")), "\n# What systemd-analyze security finds open, and why:\n")
	assert.Assert(t, ok)
	open := 0
	for line := range strings.Lines(out) {
		line, bad := strings.CutPrefix(line, "✗ ")
		if !bad {
			continue
		}
		open++
		name, value, _ := strings.Cut(strings.Fields(line)[0], "=")
		if name == "SystemCallFilter" {
			name = strings.TrimPrefix(value, "~") // a group of calls
		}
		assert.Check(t, strings.Contains(justified, name), "no reason for %s", line)
	}
	assert.Check(t, open > 10, "%d", open)
}

// TestVerify: this systemd understands every line, and the units belong
// together, also with what the generator adds for it.
func TestVerify(t *testing.T) {
	root := unpack(t, deb)
	units := filepath.Join(root, "usr/lib/systemd/system")
	for _, target := range []string{"basic", "local-fs", "multi-user", "shutdown", "sockets", "sysinit"} {
		text := read(t, "/usr/lib/systemd/system", target+".target")
		assert.NilError(t, os.WriteFile(filepath.Join(units, target+".target"), []byte(text), 0o600))
	}
	verify := func() (string, error) {
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", "--root="+root, "csbd.service", "csbd.socket").CombinedOutput()
		return string(out), err
	}
	out, err := verify()
	assert.NilError(t, err, "%s", out)
	assert.Equal(t, out, "")

	// And it would say so.
	service := filepath.Join(units, "csbd.service")
	assert.NilError(t, os.WriteFile(service, []byte(strings.Replace(read(t, service), "KillMode=", "KilMode=", 1)), 0o600))
	out, _ = verify()
	assert.Check(t, is.Contains(out, "Unknown key 'KilMode'"))
}

// TestGenerator: each version of systemd gets what it understands.
func TestGenerator(t *testing.T) {
	for version, want := range map[string][]string{
		"252 (252.39-1~deb12u1)": nil,
		"253 (253.5-1)":          {"Type=notify-reload"},
		"254.1":                  {"Type=notify-reload", "DelegateSubgroup=csbd"},
		"257 (257.8-1~deb13u2)":  {"Type=notify-reload", "DelegateSubgroup=csbd"},
	} {
		dir := t.TempDir()
		stub := "#!/bin/sh\necho 'systemd " + version + "'\necho '+PAM +AUDIT'\n"
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "systemctl"), []byte(stub), 0o700))
		out := t.TempDir()
		cmd := exec.Command(unit("csbd-generator"), out, out, out)
		cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
		said, err := cmd.CombinedOutput()
		assert.NilError(t, err, "%s", said)
		assert.Equal(t, string(said), "")
		dropIns, err := filepath.Glob(filepath.Join(out, "csbd.service.d", "*.conf"))
		assert.NilError(t, err)
		var all string
		for _, path := range dropIns {
			all += read(t, path)
		}
		for _, line := range []string{"Type=notify-reload", "DelegateSubgroup=csbd"} {
			wanted := false
			for _, w := range want {
				wanted = wanted || w == line
			}
			assert.Check(t, strings.Contains(all, "\n"+line+"\n") == wanted, "systemd %s: %s", version, all)
		}
		assert.Check(t, (all == "") == (want == nil))
	}
}
