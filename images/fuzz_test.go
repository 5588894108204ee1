package images

import (
	"slices"
	"strings"
	"testing"
)

// FuzzProject holds that no pyproject.toml makes parseProject panic, and that
// what it accepts can stand on mmdebstrap's command line and in a file name.
func FuzzProject(f *testing.F) {
	for _, s := range []string{
		"[project]\nname = \"python\"\ndependencies = [\"numpy>=1.2,<2\", \"Pandas (==1.5.*)\", \"a.b_c ~= 1.0\"]\n" +
			"[tool.csb]\nbase = \"debian:bookworm\"\npreload = [\"numpy\", \"a.b\"]\nwarmup = \"x = 1\"\n",
		"[project]\nname = \"../etc\"\n", "[project]\nname = \"a\"\n[tool]\ncsb = 1\n", "[project]\nname = \"a\"\n[tool.csb]\nunknown = 1\n",
		"[project]\nname = \"a\"\ndependencies = [\"x===1\", \"x\", \"y @ file:///etc\"]\n", "name = [", "\x00", "",
		"[project]\nname = \"a\"\ndependencies = [\"x,--hook=id\"]\n", "[project]\nname = \"a\"\n[tool.csb]\nbase = \"debian:--x\"\n",
	} {
		f.Add([]byte(s), "1.2.3")
	}
	f.Fuzz(func(t *testing.T, data []byte, version string) {
		p, err := parseProject(data)
		if err != nil {
			if err.Error() == "" {
				t.Errorf("%q is refused without a word", data)
			}
			return
		}
		if !imageName.MatchString(p.Name) || strings.ContainsAny(p.Name, "/\x00") || strings.HasPrefix(p.Name, ".") {
			t.Errorf("%q has name %q", data, p.Name)
		}
		if strings.Trim(p.suite(), "abcdefghijklmnopqrstuvwxyz") != "" || p.suite() == "" {
			t.Errorf("%q has suite %q", data, p.suite())
		}
		for _, name := range p.packages() {
			if !strings.HasPrefix(name, "python3") || strings.ContainsAny(name, " ,/=\x00\n") {
				t.Errorf("%q has package %q", data, name)
			}
		}
		for i, d := range p.Dependencies {
			if slices.ContainsFunc(p.Dependencies[:i], func(o Dependency) bool { return o.Name == d.Name }) {
				t.Errorf("%q has %s twice", data, d.Name)
			}
			_, _ = d.Allows(version)
			_, _ = d.Allows(upstream(version))
		}
	})
}
