package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
)

// TestReproducible: the same commit, built in another directory, gives the same
// bytes. `make packages-reproducible` does so without anything from here.
func TestReproducible(t *testing.T) {
	t.Parallel()
	if strings.HasSuffix(version(t), ".dirty") && os.Getenv("CI") == "" {
		t.Skip("what is here is not committed, so that there is nothing to compare it with")
	}
	theirs, root := built(t, deb), imagetest.Root()
	clone := filepath.Join(t.TempDir(), "a-directory-with-another-name")
	run(t, "git", "clone", "--quiet", root, clone)
	// gVisor's compiled filters take a minute, and are the same for the same
	// gVisor. They come as newer than what they are made of.
	run(t, "cp", "-r", filepath.Join(root, "build"), clone)
	run(t, "touch", filepath.Join(clone, "build", "gvisor.mod"))

	cmd := exec.Command("make", "packages", "FORMATS=deb")
	cmd.Dir = clone
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "MAKE") { // of the make that runs this test
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "CSBD_IMAGE_DIR="+imagetest.Store().Dir)
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)

	tree := unpack(t, deb)
	for _, program := range programs {
		path := filepath.Join(clone, "bin", filepath.Base(program))
		assert.Check(t, read(t, tree, program) == read(t, path), "%s is not the same", program)
	}
	for _, file := range []string{theirs, built(t, imageDeb)} {
		assert.Check(t, read(t, file) == read(t, clone, "dist", filepath.Base(file)), "%s is not the same", filepath.Base(file))
	}
}
