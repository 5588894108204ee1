// Package man_test holds the manual pages to the programs.
package man_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	assert.NilError(t, err)
	return string(data)
}

func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(servertest.Binary(t, program), args...).Output()
	assert.NilError(t, err)
	return string(out)
}

type set map[string]bool

func (s set) sorted() []string { return slices.Sorted(maps.Keys(s)) }

// matches are what the pattern's group has found.
func matches(pattern, text string) set {
	found := set{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found[m[1]] = true
	}
	return found
}

// section is what stands below a heading, up to the next of its kind.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, text, ok := strings.Cut(page, "\n.Sh "+heading+"\n")
	assert.Assert(t, ok, "there is no section %s", heading)
	text, _, _ = strings.Cut(text, "\n.Sh ")
	return text
}

// items are the entries of a page's lists that have a macro, with their text.
func items(page, macro string) map[string]string {
	found := map[string]string{}
	for _, item := range strings.Split(page, "\n.It ")[1:] {
		head, body, _ := strings.Cut(item, "\n")
		if name, ok := strings.CutPrefix(head, macro+" "); ok {
			body, _, _ = strings.Cut(body, "\n.El")
			found[strings.Fields(name)[0]] += body
		}
	}
	return found
}

func keys(m map[string]string) set {
	found := set{}
	for key := range m {
		found[key] = true
	}
	return found
}

func same(t *testing.T, what string, documented, real set) {
	t.Helper()
	assert.Check(t, len(real) > 1, "%s: nothing to compare with", what)
	assert.DeepEqual(t, documented.sorted(), real.sorted())
}

// TestFormat lets both formatters of manual pages look for mistakes.
func TestFormat(t *testing.T) {
	pages, err := filepath.Glob("*.[0-9]")
	assert.NilError(t, err)
	assert.Check(t, len(pages) == 3, "%q", pages)
	for _, page := range pages {
		out, err := exec.Command("mandoc", "-T", "lint", "-W", "warning", page).CombinedOutput()
		assert.Check(t, err == nil && len(out) == 0, "mandoc: %v: %s", err, out)

		// As lintian does.
		cmd := exec.Command("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANROFFSEQ=", "MANWIDTH=80")
		var errs strings.Builder
		cmd.Stderr = &errs
		formatted, err := cmd.Output()
		assert.Check(t, err == nil && errs.Len() == 0, "man %s: %v: %s", page, err, &errs)
		assert.Check(t, len(formatted) > 2000, "%s", formatted)

		// What refers to our own pages finds them.
		text := read(t, page)
		for name := range matches(`(?m)^\.Xr (cs[a-z-]+ \d)`, text) {
			assert.Check(t, slices.Contains(pages, strings.ReplaceAll(name, " ", ".")), "%s refers to %s", page, name)
		}
		for _, heading := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXAMPLES", "SEE ALSO"} {
			section(t, text, heading)
		}
	}
}

func TestCsbctl(t *testing.T) {
	page := read(t, "csbctl.1")
	help := output(t, "csbctl", "--help")
	verbs := matches(`(?m)^  csbctl ([a-z]+) `, help)
	same(t, "commands", keys(items(page, "Cm")), verbs)
	same(t, "commands of the synopsis", matches(`(?m)^\.Cm ([a-z]+)`, section(t, page, "SYNOPSIS")), verbs)

	const flag = `(?m)^  -([a-z-]+)`
	flags := matches(flag, help)
	for verb := range verbs {
		maps.Copy(flags, matches(flag, output(t, "csbctl", verb, "--help")))
	}
	documented := set{}
	for name := range items(page, "Fl") {
		documented[strings.TrimPrefix(name, "-")] = true
	}
	same(t, "flags", documented, flags)
	flags["help"] = true
	for name := range matches(`\bFl (\S+)`, page) {
		short := len(name) == 1
		assert.Check(t, flags[strings.TrimPrefix(name, "-")] && strings.HasPrefix(name, "-") != short, "Fl %s", name)
	}

	variables, statuses := set{}, matches(`(\d+)`, section(t, "\n.Sh x\n"+exitCodes(t), "x"))
	sources, err := filepath.Glob(filepath.Join(imagetest.Root(), "cmd", "csbctl", "*.go"))
	assert.NilError(t, err)
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		text := read(t, source)
		maps.Copy(variables, matches(`getenv\("([A-Z_]+)"\)`, text))
		maps.Copy(statuses, matches(`(?m)^(?:const)?\s*exit[A-Z]\w+\s*= (\d+)`, text))
	}
	same(t, "environment", keys(items(section(t, page, "ENVIRONMENT"), "Ev")), variables)
	delete(statuses, "128")
	same(t, "exit statuses", matches(`(?m)^\.It (\d+)$`, section(t, page, "EXIT STATUS")), statuses)
}

// exitCodes is what docs/protocol.md says of a result's exit_code.
func exitCodes(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(read(t, imagetest.Root(), "docs", "protocol.md")) {
		if text, ok := strings.CutPrefix(line, "| `exit_code` |"); ok {
			return text
		}
	}
	t.Fatal("docs/protocol.md says nothing of exit_code")
	return ""
}

func TestCsbd(t *testing.T) {
	page := read(t, "csbd.8")
	help := output(t, "csbd", "--help")
	commands := matches(`(?m)^  csbd \[?([a-z]+)`, help)
	commands["help"] = true
	same(t, "commands", keys(items(page, "Cm")), commands)
	same(t, "commands of the synopsis", matches(`(?m)^\.(?:Op )?Cm ([a-z]+)`, section(t, page, "SYNOPSIS")), commands)
	for verb := range matches(`(?m)^  csbd image ([a-z]+)`, help) {
		assert.Check(t, strings.Contains(page, "\n.It Cm image "+verb), "csbd image %s", verb)
		assert.Check(t, strings.Contains(section(t, page, "SYNOPSIS"), "\n.Cm image "+verb+"\n"), "csbd image %s", verb)
	}

	documented := items(section(t, page, "ENVIRONMENT"), "Ev")
	same(t, "environment", keys(documented), matches(`(?m)^  (CSBD_[A-Z_]+) `, help))
	for line := range strings.Lines(help) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(name, "CSBD_") {
			continue
		}
		_, after, said := strings.Cut(strings.Join(strings.Fields(documented[name]), " "), "The default is ")
		_, want, has := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), ")"), "(default ")
		assert.Check(t, said == has, "%s", line)
		after = strings.TrimSuffix(strings.TrimPrefix(after, ".Pa "), ".")
		assert.Check(t, strings.TrimSpace(after) == want, "%s: the page says %q", line, after)
	}
}

// policyKeys are all keys of the policy: those that its parser looks up.
func policyKeys(t *testing.T) set {
	t.Helper()
	found := set{}
	sources, err := filepath.Glob(filepath.Join(imagetest.Root(), "policy", "*.go"))
	assert.NilError(t, err)
	for _, source := range sources {
		file, err := parser.ParseFile(token.NewFileSet(), source, nil, 0)
		assert.NilError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			literal, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			table, ok := literal.Type.(*ast.MapType)
			if !ok {
				return true
			}
			if _, ok := table.Value.(*ast.FuncType); !ok {
				return true
			}
			for _, element := range literal.Elts {
				key, err := strconv.Unquote(element.(*ast.KeyValueExpr).Key.(*ast.BasicLit).Value)
				assert.NilError(t, err)
				found[key] = true
			}
			return true
		})
	}
	return found
}

func TestPolicy(t *testing.T) {
	page := read(t, "csbd-policy.5")
	same(t, "keys", matches(`\bIc ([a-z_]+)`, page), policyKeys(t))

	// The examples are right: as strangers to this host's groups.
	examples := regexp.MustCompile(`(?s)\n\.Bd -literal\n(version.*?)\.Ed\n`).FindAllStringSubmatch(page, -1)
	assert.Check(t, len(examples) == 2, "%q", examples)
	for _, example := range examples {
		_, err := policy.Parse(policy.Source{Name: "example", Data: []byte(example[1])})
		assert.NilError(t, err)
	}

	// A profile that says what the page says is built in, is the built-in one.
	var profile strings.Builder
	said := 0
	for key, text := range items(section(t, page, "PROFILES"), "Ic") {
		for value := range matches(`(?m)^Built-in: (.*)\.$`, text) {
			said++
			if def, most, ok := strings.Cut(value, " / "); ok {
				value = "{default: " + def + ", max: " + most + "}"
			}
			profile.WriteString("\n    " + key + ": " + value)
		}
	}
	assert.Check(t, said == len(items(section(t, page, "PROFILES"), "Ic")), "a key without its built-in value:%s", &profile)
	parse := func(profile string) *policy.Policy {
		t.Helper()
		p, err := policy.Parse(policy.Source{Name: "built in", Data: []byte("version: 1\nrules: []\nprofiles:\n  default:" + profile + "\n")})
		assert.NilError(t, err)
		return p
	}
	assert.Check(t, reflect.DeepEqual(parse(profile.String()), parse(" {}")), "not what is built in:%s", &profile)
	assert.Check(t, !reflect.DeepEqual(parse(profile.String()), parse(" {queue: 33}")), "the comparison cannot fail")
}
