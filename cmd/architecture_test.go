// Package cmd_test holds the arrows between the packages: who may
// import whom, and why. A rule that is in the way is changed here, with its
// reason, and in docs/decisions.
package cmd_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

const module = "github.com/fcarli/codesandbox"

// A pkg is what `go list` says of a package, without its tests.
type pkg struct {
	ImportPath, Name, Dir string
	Standard              bool
	Imports, GoFiles      []string
}

// A graph is every package that the module needs, by import path.
type graph map[string]pkg

// A rule is one arrow that has to be there, or must not. Patterns are import
// paths, those of this module without its name; module+"/..." is x and all below.
type rule struct {
	// From whom, and whom of them not.
	from, except []string
	// never is what they must not import: not even by way of others, or
	// directly if direct is set.
	never  []string
	direct bool
	// own is all that they may import of this module, foreign all that they may
	// of other modules; nil is no such rule.
	own, foreign []string
	because      string
}

var rules = []rule{
	{
		from: []string{"isolation"}, own: []string{}, foreign: []string{},
		because: "isolation says what it means to run a program; everything imports it, so it may drag nothing along: standard library only",
	},
	{
		from: []string{"isolation/..."}, never: []string{"rpc/...", "policy/...", "cmd/..."},
		because: "how a sandbox works does not depend on who asks for it: drivers must be usable, and testable, without the daemon",
	},
	{
		from: []string{"isolation/..."}, except: []string{"isolation/isolationtest/..."}, never: []string{"images/..."},
		because: "a driver gets the path of a root filesystem and does not know how it was made (the test suite boots real ones)",
	},
	{
		from: []string{"isolation/pool/..."}, never: []string{"isolation/runsc/...", "isolation/docker/...", "isolation/cgroup/..."},
		because: "the pool keeps what any Launcher starts; it knows neither runsc nor Docker",
	},
	{
		from: []string{"policy/..."}, own: []string{"isolation", "policy/..."},
		because: "a decision is a pure function of caller and request in the words of isolation: it must not be able to run anything",
	},
	{
		from: []string{"rpc"}, own: []string{}, foreign: []string{"github.com/sourcegraph/jsonrpc2/..."},
		because: "clients import rpc: the protocol must cost them nothing but a JSON-RPC library",
	},
	{
		from: []string{"rpc/server/queue"}, own: []string{}, foreign: []string{},
		because: "who waits for whom is decided without knowing what for",
	},
	{
		from: []string{"rpc/server/..."}, except: []string{"rpc/server/servertest/..."}, direct: true,
		never:   []string{"isolation/runsc/...", "isolation/docker/...", "isolation/cgroup/...", "isolation/runner/...", "gvisor.dev/..."},
		because: "the server knows sandboxes by the interfaces of isolation only, so that it is tested with fakes and drivers can be exchanged; cmd/csbd puts the two together",
	},
	{
		from: []string{"..."}, except: []string{"rpc/server/metrics/...", "cmd/csbd/..."}, never: []string{"github.com/prometheus/...", "rpc/server/metrics/..."},
		because: "metrics are one package's business: the others tell an Observer what happens, so that clients, drivers and the server do not carry a metrics library, and another can be taken",
	},
	{
		from: []string{"images"}, never: []string{"rpc/...", "policy/...", "isolation/runsc/...", "isolation/docker/...", "isolation/cgroup/...", "cmd/..."},
		because: "building an image needs no daemon and no runtime",
	},
	{
		from: []string{"cmd/csbctl/..."},
		never: []string{"gvisor.dev/...", "go.yaml.in/...", "gopkg.in/yaml.v2/...", "gopkg.in/yaml.v3/...", "sigs.k8s.io/yaml/...",
			"github.com/docker/...", "github.com/moby/...", "github.com/containerd/...", "github.com/opencontainers/...",
			"github.com/pelletier/go-toml/...", "github.com/BurntSushi/...", "rpc/server/...", "isolation/...", "policy/...", "images/..."},
		because: "the client is a small program for everybody's PATH: it asks csbd and links no container runtime, YAML, TOML, Docker client or part of the daemon",
	},
	{
		from: []string{"..."}, except: []string{"cmd/..."}, never: []string{"cmd/..."},
		because: "programs stand on packages, not the other way round",
	},
	{
		from: []string{"..."}, except: []string{"images/imagetest/...", "isolation/isolationtest/...", "isolation/cgroup/cgrouptest/...", "rpc/server/servertest/..."},
		never:   []string{"testing", "gotest.tools/...", "github.com/prometheus/prometheus/...", "images/imagetest/...", "isolation/isolationtest/...", "isolation/cgroup/cgrouptest/...", "rpc/server/servertest/..."},
		because: "what is for tests must not be linked into programs",
	},
}

// matches is whether an import path is meant by one of the patterns.
func matches(patterns []string, p string) bool {
	own, isOwn := strings.CutPrefix(p, module)
	own = strings.TrimPrefix(own, "/")
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if pattern == "..." {
			return isOwn
		}
		if above, ok := strings.CutSuffix(pattern, "/..."); ok {
			return p == above || strings.HasPrefix(p, above+"/") || isOwn && (own == above || strings.HasPrefix(own, above+"/"))
		}
		return p == pattern || isOwn && own == pattern
	})
}

// ours are the packages of this module, sorted.
func (g graph) ours() []string {
	return slices.Sorted(func(yield func(string) bool) {
		for p := range g {
			if matches([]string{"..."}, p) && !yield(p) {
				return
			}
		}
	})
}

// violations says how the graph breaks the rule, each with the way from the
// package to what it must not reach.
func (r rule) violations(g graph) []string {
	var found []string
	report := func(chain []string) {
		found = append(found, fmt.Sprintf("%s\n\tbut %s", strings.Join(chain, " imports "), r.because))
	}
	for _, p := range g.ours() {
		if !matches(r.from, p) || matches(r.except, p) {
			continue
		}
		for _, i := range g[p].Imports {
			isOwn := matches([]string{"..."}, i)
			switch {
			case isOwn && r.own != nil && !matches(r.own, i):
				report([]string{p, i})
			case !isOwn && !g[i].Standard && r.foreign != nil && !matches(r.foreign, i):
				report([]string{p, i})
			case r.direct && matches(r.never, i):
				report([]string{p, i})
			}
		}
		if r.direct || len(r.never) == 0 {
			continue
		}
		for _, chain := range g.reach(p) {
			if last := chain[len(chain)-1]; last != p && matches(r.never, last) {
				report(chain)
			}
		}
	}
	return found
}

// reach returns a shortest way to each package that p needs.
func (g graph) reach(p string) [][]string {
	chains, seen := [][]string{{p}}, map[string]bool{p: true}
	for i := 0; i < len(chains); i++ {
		for _, next := range g[chains[i][len(chains[i])-1]].Imports {
			if !seen[next] {
				seen[next] = true
				chains = append(chains, append(slices.Clone(chains[i]), next))
			}
		}
	}
	return chains
}

// load asks the go command for the module's packages and all that they need.
func load(t *testing.T) graph {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Name,Dir,Standard,Imports,GoFiles", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	assert.NilError(t, err, "go list: %s", stderr.Bytes())
	g := graph{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		assert.NilError(t, err)
		g[p.ImportPath] = p
	}
	return g
}

func TestArchitecture(t *testing.T) {
	g := load(t)
	// A rule about a package that was renamed would hold for ever.
	for _, name := range []string{"isolation", "isolation/runner", "isolation/runsc", "policy", "images", "rpc", "rpc/server", "rpc/server/queue", "rpc/server/metrics", "cmd/csbctl", "cmd/csbd"} {
		assert.Check(t, g[module+"/"+name].Name != "", "there is no package %s: change the rules", name)
	}
	for _, r := range rules {
		for _, v := range r.violations(g) {
			t.Error(v)
		}
	}
	for _, p := range g.ours() {
		if why := badName(g[p]); why != "" {
			t.Errorf("package %s: %s", p, why)
		}
		if !edge(p) {
			for _, file := range g[p].GoFiles {
				for _, v := range edgeCalls(t, filepath.Join(g[p].Dir, file), nil) {
					t.Error(v)
				}
			}
		}
	}
}

// badName says why a package should be called something else, or "".
func badName(p pkg) string {
	for _, name := range []string{p.Name, path.Base(p.ImportPath)} {
		for _, bad := range []string{"util", "utils", "common", "helper", "helpers", "misc", "manager", "handler", "shared", "base", "lib"} {
			if name == bad {
				return fmt.Sprintf("%q says nothing about what is in it: directories are nouns that a newcomer knows", name)
			}
		}
	}
	return ""
}

// edge is whether a package may deal with the process that it runs in: the
// programs, those that make packages among them, and what is for tests.
func edge(p string) bool {
	return matches([]string{"cmd/...", "packaging/..."}, p) || strings.HasSuffix(p, "test")
}

// edgeOnly are the functions that belong to main: by import path, nil is the
// whole package.
var edgeOnly = map[string][]string{
	"os":        {"Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "Unsetenv", "Clearenv", "Exit", "Args"},
	"syscall":   {"Getenv", "Environ", "Setenv", "Exit"},
	"log":       {"Fatal", "Fatalf", "Fatalln", "Print", "Printf", "Println"},
	"flag":      nil,
	"os/signal": nil,
}

// edgeCalls finds in a source file what belongs under cmd.
func edgeCalls(t *testing.T, name string, source any) []string {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, source, 0)
	assert.NilError(t, err)
	var found []string
	report := func(at token.Pos, what string) {
		found = append(found, fmt.Sprintf("%s: %s\n\tbut environment, exit status and signals appear only under cmd: "+
			"a package that reads them cannot be tested or configured from outside", files.Position(at), what))
	}
	watched := map[string][]string{}
	for _, i := range file.Imports {
		imported, err := strconv.Unquote(i.Path.Value)
		assert.NilError(t, err)
		functions, ok := edgeOnly[imported]
		switch {
		case !ok:
		case functions == nil:
			report(i.Pos(), "imports "+imported)
		case i.Name != nil:
			watched[i.Name.Name] = functions
		default:
			watched[path.Base(imported)] = functions
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && slices.Contains(watched[x.Name], s.Sel.Name) {
				report(s.Pos(), x.Name+"."+s.Sel.Name)
			}
		}
		return true
	})
	return found
}

// made up: the packages of a small module, as they should be.
func sound() graph {
	g := graph{}
	add := func(p string, imports ...string) { g[p] = pkg{ImportPath: p, Name: path.Base(p), Imports: imports} }
	own := func(p string, imports ...string) { add(module+"/"+p, imports...) }
	for _, p := range []string{"os", "testing"} {
		g[p] = pkg{ImportPath: p, Standard: true}
	}
	add("go.yaml.in/yaml/v3")
	add("gvisor.dev/gvisor/pkg/urpc")
	add("github.com/sourcegraph/jsonrpc2", "os")
	add("github.com/prometheus/client_golang/prometheus", "os")
	add("example.org/more", "go.yaml.in/yaml/v3")
	own("isolation", "os")
	own("isolation/runner", "os")
	own("isolation/runsc", module+"/isolation", module+"/isolation/runner", "gvisor.dev/gvisor/pkg/urpc")
	own("isolation/pool", module+"/isolation")
	own("isolation/isolationtest", module+"/isolation", module+"/images", "testing")
	own("images", module+"/isolation/runner")
	own("policy", module+"/isolation", "go.yaml.in/yaml/v3")
	own("rpc", "github.com/sourcegraph/jsonrpc2")
	own("rpc/server", module+"/rpc", module+"/rpc/server/queue", module+"/policy", module+"/isolation", module+"/images")
	own("rpc/server/queue", "os")
	own("rpc/server/metrics", module+"/rpc/server", "github.com/prometheus/client_golang/prometheus")
	own("cmd/csbctl", module+"/rpc", "os")
	own("cmd/csbd", module+"/rpc/server", module+"/rpc/server/metrics", module+"/isolation/runsc", "os")
	return g
}

// Each rule can fail, and says then who imports what by way of whom, and why
// that is wrong.
func TestTheRulesCanFail(t *testing.T) {
	for _, r := range rules {
		assert.Check(t, is.Len(r.violations(sound()), 0))
		assert.Check(t, r.because != "")
	}
	broken := map[int]bool{}
	for _, test := range []struct{ from, to, want string }{
		{"isolation", module + "/policy", "isolation imports " + module + "/policy"},
		{"isolation", "go.yaml.in/yaml/v3", "isolation imports go.yaml.in/yaml/v3"},
		{"isolation/runsc", module + "/policy", "isolation/runsc imports " + module + "/policy"},
		{"isolation/runner", module + "/rpc", "isolation/runsc imports " + module + "/isolation/runner imports " + module + "/rpc"},
		{"isolation/runsc", module + "/images", "isolation/runsc imports " + module + "/images"},
		{"isolation/pool", module + "/isolation/runsc", "isolation/pool imports " + module + "/isolation/runsc"},
		{"policy", module + "/images", "policy imports " + module + "/images"},
		{"rpc", module + "/isolation", "rpc imports " + module + "/isolation"},
		{"rpc", "example.org/more", "rpc imports example.org/more"},
		{"rpc/server/queue", module + "/policy", "rpc/server/queue imports " + module + "/policy"},
		{"rpc/server", module + "/isolation/runsc", "rpc/server imports " + module + "/isolation/runsc"},
		{"rpc/server/queue", module + "/isolation/runner", "rpc/server/queue imports " + module + "/isolation/runner"},
		{"rpc/server", "github.com/prometheus/client_golang/prometheus", "rpc/server imports github.com/prometheus/client_golang/prometheus"},
		{"rpc/server", module + "/rpc/server/metrics", "rpc/server imports " + module + "/rpc/server/metrics"},
		{"cmd/csbctl", "github.com/prometheus/client_golang/prometheus", "cmd/csbctl imports github.com/prometheus/client_golang/prometheus"},
		{"images", module + "/policy", "images imports " + module + "/policy"},
		{"cmd/csbctl", module + "/isolation", "cmd/csbctl imports " + module + "/isolation"},
		{"cmd/csbctl", "example.org/more", "cmd/csbctl imports example.org/more imports go.yaml.in/yaml/v3"},
		{"rpc", module + "/rpc/server", "cmd/csbctl imports " + module + "/rpc imports " + module + "/rpc/server"},
		{"policy", module + "/cmd/csbd", "policy imports " + module + "/cmd/csbd"},
		{"policy", "testing", "cmd/csbd imports " + module + "/rpc/server imports " + module + "/policy imports testing"},
		{"cmd/csbd", module + "/isolation/isolationtest", "cmd/csbd imports " + module + "/isolation/isolationtest"},
	} {
		g := sound()
		p := g[module+"/"+test.from]
		p.Imports = append(slices.Clone(p.Imports), test.to)
		g[p.ImportPath] = p
		var found []string
		for i, r := range rules {
			if v := r.violations(g); len(v) > 0 {
				broken[i] = true
				for _, text := range v {
					assert.Check(t, is.Contains(text, r.because))
				}
				found = append(found, v...)
			}
		}
		assert.Check(t, slices.ContainsFunc(found, func(v string) bool {
			return strings.HasPrefix(v, module+"/"+test.want+"\n")
		}), "%s imports %s: %q", test.from, test.to, found)
	}
	assert.Check(t, is.Len(slices.Collect(maps.Keys(broken)), len(rules)), "a rule that never failed")
}

func TestTheOtherChecksCanFail(t *testing.T) {
	for _, p := range []pkg{{Name: "util", ImportPath: module + "/util"}, {Name: "good", ImportPath: module + "/rpc/helpers"}, {Name: "handler", ImportPath: module + "/h"}} {
		assert.Check(t, badName(p) != "", "%v", p)
	}
	assert.Check(t, badName(pkg{Name: "policy", ImportPath: module + "/policy"}) == "")

	const source = `package p
import ("os"; l "log"; "os/signal")
var home = os.Getenv("HOME")
func f() {
	var c struct{ Getenv func() }
	c.Getenv()
	os.Remove("x")
	l.Fatalf("%v", signal.Ignored)
	os.Exit(1)
}`
	found := edgeCalls(t, "p.go", source)
	var where []string
	for _, v := range found {
		where = append(where, strings.SplitN(v, "\n", 2)[0])
		assert.Check(t, is.Contains(v, "only under cmd"))
	}
	assert.DeepEqual(t, where, []string{"p.go:2:24: imports os/signal", "p.go:3:12: os.Getenv", "p.go:8:2: l.Fatalf", "p.go:9:2: os.Exit"})
	assert.Check(t, edge(module+"/cmd/csbd") && edge(module+"/images/imagetest") && !edge(module+"/images") && !edge(module+"/rpc/server"))
}
