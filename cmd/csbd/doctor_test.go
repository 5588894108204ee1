package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	servertest.NeedRoot(t)
	imagetest.Python(t)
	base := append(environment(t), "CSBD_IMAGE_DIR="+imagetest.Store().Dir, "TMPDIR="+servertest.Dir(t))
	if group := os.Getenv("CSBD_CGROUP"); group != "" {
		base = append(base, "CSBD_CGROUP="+group)
	}
	broken := filepath.Join(servertest.Dir(t), "sentry")
	assert.NilError(t, os.WriteFile(broken, []byte("#!/bin/sh\nexit 1\n"), 0o755))
	other := filepath.Join(servertest.Dir(t), "runsc")
	assert.NilError(t, os.WriteFile(other, []byte("#!/bin/sh\necho runsc version old\n"), 0o755))
	for _, test := range []struct {
		name   string
		env    []string
		failed string // the names of the checks, in order
	}{
		{"all is well", nil, ""},
		{"no policy", []string{"CSBD_POLICY=/nonexistent"}, "policy"},
		{"no image", []string{"CSBD_IMAGE_DIR=" + servertest.Dir(t)}, "image"},
		{"broken sentry", []string{"CSBD_SENTRY=" + broken}, "runtime"},
		{"another version", []string{"CSBD_LAUNCHER=stock", "CSBD_RUNSC=" + other}, "version execution"},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := append(append([]string{}, base...), test.env...)
			code, stdout, stderr := csbd(t, env, "doctor", "--json")
			var report rpc.Doctor
			assert.NilError(t, json.Unmarshal([]byte(stdout), &report), "%q %q", stdout, stderr)
			var failed []string
			for _, c := range report.Checks {
				if c.Status == rpc.CheckFailed {
					assert.Check(t, c.Cause != "" && c.Fix != "", "%+v", c)
					failed = append(failed, c.Name)
				}
			}
			assert.Equal(t, strings.Join(failed, " "), test.failed)
			assert.Equal(t, report.OK, test.failed == "")
			assert.Equal(t, code == 0, report.OK)
		})
	}
	for _, v := range base {
		if dir, ok := strings.CutPrefix(v, "TMPDIR="); ok {
			left, err := os.ReadDir(dir)
			assert.Check(t, err == nil && len(left) == 0, "%v %v", left, err)
		}
	}
}
