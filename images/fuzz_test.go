package images

import (
	"fmt"
	"os"
	"path/filepath"
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

// FuzzStore holds that whatever is in a store, an image that it finds is one
// whose directory, description and root filesystem agree, under the name that
// was asked for; and that no content makes it panic, wait or remove what is
// another image's.
func FuzzStore(f *testing.F) {
	const content = "content"
	meta := func(digest string) string {
		return fmt.Sprintf(`{"name":"a","digest":%q,"size":%d,"runner":%q,"created":"2026-01-02T03:04:05Z","packages":{"numpy":"1"}}`, digest, len(content), runnerDigest)
	}
	good := digest(content)
	for _, s := range []struct{ meta, link, ref string }{
		{meta(good), "../sha256-" + good[7:], "b"}, {meta(good), "a", "b"}, {meta(good), "b", "b"}, {meta(good), "../names", "b"},
		{meta(good), "../../outside", "b"}, {meta(good), "/etc", "b"}, {meta(good), ".", "../a"}, {meta(good), "..", good},
		{meta("sha256:5"), "a", "sha256:" + "5"}, {meta("sha256:../outside"), "a", "sha256:../outside"}, {meta(""), "a", "sha256:"},
		{`{"digest":5}`, "a", "b"}, {"", "", ""}, {"null", "x", "."}, {`{"size":-1}`, "x", ".."}, {`{"size":1e99}`, "x", "a/b"},
		{"[" + strings.Repeat("[", 20000), "a", "b"}, {`{"digest":"` + good + `","DIGEST":"x","created":"never"}`, "a", "b\x00"},
	} {
		f.Add([]byte(s.meta), s.link, s.ref)
	}
	f.Fuzz(func(t *testing.T, meta []byte, link, ref string) {
		s := Store{Dir: filepath.Join(t.TempDir(), "images")}
		other := put(t, s, "other", "another", "sha256:2")
		i := put(t, s, "a", content, "sha256:1")
		writeMeta(t, i, string(meta))
		// Some texts are no target of a link: then there is one name less.
		_ = os.Symlink(link, filepath.Join(s.Dir, namesDir, "b"))

		list, _ := s.List()
		for _, ref := range []string{"a", "b", i.Digest, ref} {
			got, err := s.Resolve(ref)
			if err != nil {
				if err.Error() == "" {
					t.Errorf("%q is refused without a word", ref)
				}
				continue
			}
			list = append(list, got)
		}
		if got, ok := s.byInput("sha256:1"); ok {
			list = append(list, got)
		}
		for _, got := range list {
			info, err := os.Stat(got.Path)
			if err != nil || !info.Mode().IsRegular() || info.Size() != got.Size {
				t.Errorf("%+v: %v", got, err)
			}
			home := filepath.Dir(got.Path)
			if filepath.Dir(home) != s.Dir || filepath.Base(home) != strings.Replace(got.Digest, ":", "-", 1) {
				t.Errorf("%q is in %s", got.Digest, home)
			}
		}
		_ = s.Remove("b")
		if got, err := s.Resolve("other"); err != nil || got.Path != other.Path {
			t.Errorf("after the removal of a link to %q: %v", link, err)
		}
	})
}
