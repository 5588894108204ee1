package packaging_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
)

// TestVersion: versions grow from commit to commit, in dpkg's order and rpm's,
// before and after releases.
func TestVersion(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		run(t, "git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"}, args...)...)
	}
	git("init", "--quiet")
	assert.NilError(t, os.Mkdir(filepath.Join(dir, "packaging"), 0o700))
	script := filepath.Join(dir, "packaging", "version.sh")
	assert.NilError(t, os.WriteFile(script, []byte(read(t, imagetest.Root(), "packaging", "version.sh")), 0o700))
	git("add", ".")

	var versions []string
	commit := func(tag string) {
		t.Helper()
		git("commit", "--quiet", "--allow-empty", "-m", fmt.Sprint(len(versions)))
		if tag != "" {
			git("tag", "-a", "-m", tag, tag)
		}
		versions = append(versions, run(t, script))
	}
	for range 11 { // the tenth is not before the second
		commit("")
	}
	for _, tag := range []string{"v0.1", "", "", "v0.2-rc1", "", "v0.2", "", "v1.10"} {
		commit(tag)
	}
	valid := regexp.MustCompile(`^[0-9][0-9a-z.+~]*$`) // for both
	for i, v := range versions {
		assert.Check(t, valid.MatchString(v), v)
		if i == 0 {
			continue
		}
		before := versions[i-1]
		assert.Check(t, exec.Command("dpkg", "--compare-versions", before, "lt", v).Run(), "dpkg: %s, %s", before, v)
		assert.Equal(t, run(t, "rpm", "--eval", fmt.Sprintf(`%%{lua:print(rpm.vercmp("%s","%s"))}`, before, v)), "-1", "rpm: %s, %s", before, v)
	}
	assert.Equal(t, versions[len(versions)-1], "1.10")

	// What is not as it was committed is not that version.
	assert.NilError(t, os.WriteFile(script, []byte(read(t, script)+"\n"), 0o700))
	dirty := run(t, script)
	assert.Check(t, regexp.MustCompile(`^1\.10\+git0\.[0-9a-f]{12}\.dirty$`).MatchString(dirty), dirty)
}
