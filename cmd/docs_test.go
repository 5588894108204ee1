package cmd_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

var (
	// What a document names: a directory in backquotes, or a test.
	named = regexp.MustCompile("`([a-z][a-z0-9/]*)`|\\b((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)\\b")
	// A test in a source file.
	testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)\(`)
)

// TestPromisesAreHeld: every test that a document names as what holds a promise
// is there, in the package that the document says.
func TestPromisesAreHeld(t *testing.T) {
	tests := testsByPackage(t)
	documents, err := filepath.Glob("../docs/*.md")
	assert.NilError(t, err)
	decisions, err := filepath.Glob("../docs/decisions/*.md")
	assert.NilError(t, err)
	found := 0
	for _, file := range append(append(documents, decisions...), "../README.md") {
		data, err := os.ReadFile(file)
		assert.NilError(t, err)
		n, missing := unheld(string(data), tests)
		found += n
		for _, m := range missing {
			t.Errorf("%s names %s", filepath.Base(file), m)
		}
	}
	assert.Check(t, found > 40, "only %d names of tests were found in the documents", found)
}

// unheld counts the tests that a text names, and lists those that are not there.
func unheld(text string, tests map[string][]string) (n int, missing []string) {
	for line := range strings.Lines(text) {
		in := "" // the package that was named last on the line
		for _, m := range named.FindAllStringSubmatch(line, -1) {
			switch directory, test := m[1], m[2]; {
			case test == "":
				if tests[directory] != nil {
					in = directory
				}
			case in != "" && !slices.Contains(tests[in], test):
				missing = append(missing, test+", which is not in "+in)
				n++
			case in == "" && !anywhere(tests, test):
				missing = append(missing, test+", which is nowhere")
				n++
			default:
				n++
			}
		}
	}
	return n, missing
}

func anywhere(tests map[string][]string, test string) bool {
	for _, names := range tests {
		if slices.Contains(names, test) {
			return true
		}
	}
	return false
}

// testsByPackage are the tests of the tree, by directory.
func testsByPackage(t *testing.T) map[string][]string {
	t.Helper()
	tests := map[string][]string{}
	for _, top := range []string{"cmd", "rpc", "isolation", "policy", "images", "packaging"} {
		err := filepath.WalkDir(filepath.Join("..", top), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			directory := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../")
			for _, m := range testFunction.FindAllStringSubmatch(string(data), -1) {
				tests[directory] = append(tests[directory], m[1])
			}
			return nil
		})
		assert.NilError(t, err)
	}
	return tests
}

func TestUnheldIsFound(t *testing.T) {
	tests := map[string][]string{"rpc/server": {"TestA"}, "policy": {"FuzzB"}}
	n, missing := unheld("| x | `rpc/server`: TestA, TestC; `policy`: FuzzB |\n| FuzzB, `no/package`: TestA |\n`policy`: TestA\nTestD, Tests, A test\n", tests)
	assert.Equal(t, n, 7)
	assert.DeepEqual(t, missing, []string{"TestC, which is not in rpc/server", "TestA, which is not in policy", "TestD, which is nowhere"})
}
