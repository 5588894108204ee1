package cmd_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// wallClock are the places where csbd looks at the time of day, and why a jump
// of the clock does no harm there. Everywhere else time is what package time
// measures with the monotonic clock, so that neither a limit nor a queue nor a
// pause gets shorter or longer.
var wallClock = map[string]string{
	"isolation/runsc/filestate.go: ModTime":  "compared with itself: whether a file has changed",
	"isolation/runsc/snapshot.go: Made":      "the age of a snapshot of an earlier csbd: at worst it is made anew too early, or a while later",
	"rpc/server/record.go: Time":             "what the audit says",
	"images/store.go: Created":               "what an image says of itself",
	"rpc/server/metrics/state.go: UnixMicro": "what a scrape says; Prometheus compares it with a clock of its own",
}

// TestClockJumps: nobody can set the clock of a machine that tests share; but a
// jump can only be felt where the wall clock is read.
func TestClockJumps(t *testing.T) {
	seen := map[string]bool{}
	for _, top := range []string{"isolation", "policy", "images", "rpc", "cmd/csbd"} {
		err := filepath.WalkDir(filepath.Join("..", top), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			for _, use := range wallClockUses(t, path, nil) {
				name := strings.TrimPrefix(filepath.ToSlash(path), "../") + ": " + use
				seen[name] = true
				if wallClock[name] == "" {
					t.Errorf("%s reads the wall clock: a jump must not change what csbd does; if it does not, say so in wallClock", name)
				}
			}
			return nil
		})
		assert.NilError(t, err)
	}
	for name := range wallClock {
		assert.Check(t, seen[name], "%s is not there any more", name)
	}
}

// wallClockUses finds what takes a time out of the monotonic clock, or one that
// never was in it: methods that make a number of it, times of files, what is
// parsed, and fields that are encoded.
func wallClockUses(t *testing.T, path string, source any) (found []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, source, 0)
	assert.NilError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			x, _ := n.X.(*ast.Ident)
			ofTime := x != nil && x.Name == "time"
			switch name := n.Sel.Name; name {
			case "Unix", "UnixNano", "UnixMilli", "UnixMicro", "ModTime", "CLOCK_REALTIME", "Gettimeofday":
				found = append(found, name)
			case "Date", "Parse", "ParseInLocation":
				if ofTime {
					found = append(found, name)
				}
			}
		case *ast.Field:
			if s, ok := n.Type.(*ast.SelectorExpr); ok && n.Tag != nil && fmt.Sprint(s.X) == "time" && s.Sel.Name == "Time" {
				for _, name := range n.Names {
					found = append(found, name.Name)
				}
			}
		}
		return true
	})
	return found
}

func TestWallClockIsFound(t *testing.T) {
	found := wallClockUses(t, "p.go", `package p
import "time"
type s struct { At time.Time `+"`json:\"at\"`"+`; since time.Time }
var a, b = time.Now().Unix(), time.Unix(0, 0)
var c, _ = time.Parse("", "")
func f(i interface{ ModTime() time.Time }) time.Duration { return time.Since(i.ModTime()) }
`)
	assert.DeepEqual(t, found, []string{"At", "Unix", "Unix", "Parse", "ModTime"})
}
