package policy_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
)

// rules is the end of a policy whose profiles are what a test is about.
const rules = "rules: [{user: root, profile: default}]\n"

// files is the directory of seccomp profiles that test policies name.
var files = map[string]string{
	"allow.json":   `{"defaultAction": "SCMP_ACT_ALLOW"}`,
	"text.json":    "seccomp, please\n",
	"list.json":    `[]`,
	"null.json":    `null`,
	"empty.json":   `{}`,
	"action.json":  `{"defaultAction": "SCMP_ACT_BOGUS"}`,
	"rule.json":    `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NO"}]}`,
	"typo.json":    `{"defaultAction": "SCMP_ACT_ALLOW", "syscals": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]}`,
	"type.json":    `{"defaultAction": 1}`,
	"two.json":     `{"defaultAction": "SCMP_ACT_ALLOW"} {}`,
	"archs.json":   `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["A"], "archMap": [{"architecture": "B"}]}`,
	"invalid.json": `{"defaultAction": x}`,
	"large.json":   `{"defaultAction": "SCMP_ACT_ALLOW"}` + strings.Repeat(" ", policy.MaxSize),
}

func readFile(name string) ([]byte, error) {
	if text, ok := files[name]; ok {
		return []byte(text), nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func parse(text string) (*policy.Policy, error) {
	return policy.Parse(policy.Source{Name: "P", Data: []byte(text), ReadFile: readFile})
}

func mustParse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := parse(text)
	assert.NilError(t, err)
	return p
}

// profile parses a policy whose profile "default" has the keys that text says.
func profile(t testing.TB, text string) *policy.Profile {
	t.Helper()
	return mustParse(t, "version: 1\nprofiles: {default: {"+text+"}}\n"+rules).Profiles()[0]
}

func TestSamplePolicy(t *testing.T) {
	p, err := policy.Load("../packaging/policy.yaml")
	assert.NilError(t, err)
	assert.Equal(t, len(p.Profiles()), 1)
	got := p.Profiles()[0]
	assert.Check(t, got.Seccomp != "")
	got.Seccomp = ""
	assert.DeepEqual(t, got, &policy.Profile{
		Name: "default", Images: []string{"python"},
		Default: isolation.Limits{Timeout: 10 * time.Second, CPUTime: 10 * time.Second, Memory: 256 << 20, Disk: 64 << 20,
			Output: 1 << 20, Processes: 64, OpenFiles: 256, CPUs: 1},
		Max: isolation.Limits{Timeout: time.Minute, CPUTime: time.Minute, Memory: 1 << 30, Disk: 512 << 20,
			Output: 16 << 20, Processes: 256, OpenFiles: 256, CPUs: 1},
		Request:     policy.Sizes{Code: 8 << 20, Stdin: 16 << 20, Files: 32 << 20},
		SeccompName: "default", Environment: []string{"LANG", "TZ"},
		Concurrency: 4, Queue: 32, Rate: policy.Rate{N: 6000, Per: time.Minute},
	})
	// The sample says what csbd does anyway; root need not be in a group.
	_, rule, err := p.Match(policy.Caller{UID: 0})
	assert.NilError(t, err)
	assert.Equal(t, rule, "rule 1 (user root)")
}

// A profile says the differences from the built-in one, which is the sample's.
func TestEmptyProfileIsTheSample(t *testing.T) {
	p, err := policy.Load("../packaging/policy.yaml")
	assert.NilError(t, err)
	assert.DeepEqual(t, profile(t, ""), p.Profiles()[0])
}

func TestProfileKeys(t *testing.T) {
	for _, test := range []struct {
		text string
		got  func(p *policy.Profile) any
		want any
	}{
		{"images: [a, b]", func(p *policy.Profile) any { return p.Images }, []string{"a", "b"}},
		{"timeout: 3s", func(p *policy.Profile) any { return [2]time.Duration{p.Default.Timeout, p.Max.Timeout} }, [2]time.Duration{3 * time.Second, 3 * time.Second}},
		{"timeout: {default: 3s, max: 4s}", func(p *policy.Profile) any { return [2]time.Duration{p.Default.Timeout, p.Max.Timeout} }, [2]time.Duration{3 * time.Second, 4 * time.Second}},
		// Naming one of the two keeps the other in its bounds.
		{"timeout: {default: 5m}", func(p *policy.Profile) any { return [2]time.Duration{p.Default.Timeout, p.Max.Timeout} }, [2]time.Duration{5 * time.Minute, 5 * time.Minute}},
		{"timeout: {default: 1s}", func(p *policy.Profile) any { return [2]time.Duration{p.Default.Timeout, p.Max.Timeout} }, [2]time.Duration{time.Second, time.Minute}},
		{"timeout: {max: 2s}", func(p *policy.Profile) any { return [2]time.Duration{p.Default.Timeout, p.Max.Timeout} }, [2]time.Duration{2 * time.Second, 2 * time.Second}},
		{"timeout: {max: 20s}", func(p *policy.Profile) any { return [2]time.Duration{p.Default.Timeout, p.Max.Timeout} }, [2]time.Duration{10 * time.Second, 20 * time.Second}},
		{"timeout: {}", func(p *policy.Profile) any { return [2]time.Duration{p.Default.Timeout, p.Max.Timeout} }, [2]time.Duration{10 * time.Second, time.Minute}},
		{"cpu_time: 1.5", func(p *policy.Profile) any { return [2]time.Duration{p.Default.CPUTime, p.Max.CPUTime} }, [2]time.Duration{1500 * time.Millisecond, 1500 * time.Millisecond}},
		{"memory: {default: 8MiB, max: 1GiB}", func(p *policy.Profile) any { return [2]int64{p.Default.Memory, p.Max.Memory} }, [2]int64{8 << 20, 1 << 30}},
		{"disk: 1MB", func(p *policy.Profile) any { return [2]int64{p.Default.Disk, p.Max.Disk} }, [2]int64{1e6, 1e6}},
		{"output: 1", func(p *policy.Profile) any { return [2]int64{p.Default.Output, p.Max.Output} }, [2]int64{1, 1}},
		{"processes: {default: 1, max: 2}", func(p *policy.Profile) any { return [2]int{p.Default.Processes, p.Max.Processes} }, [2]int{1, 2}},
		{"open_files: 16", func(p *policy.Profile) any { return [2]int{p.Default.OpenFiles, p.Max.OpenFiles} }, [2]int{16, 16}},
		{"cpus: 0.5", func(p *policy.Profile) any { return [2]float64{p.Default.CPUs, p.Max.CPUs} }, [2]float64{0.5, 0.5}},
		{"output_exceeded: kill", func(p *policy.Profile) any { return [2]bool{p.Default.KillOnOutput, p.Max.KillOnOutput} }, [2]bool{true, true}},
		{"output_exceeded: truncate", func(p *policy.Profile) any { return [2]bool{p.Default.KillOnOutput, p.Max.KillOnOutput} }, [2]bool{false, false}},
		{"request: {code: 1KiB, stdin: 0}", func(p *policy.Profile) any { return p.Request }, policy.Sizes{Code: 1 << 10, Stdin: 0, Files: 32 << 20}},
		{"environment: []", func(p *policy.Profile) any { return p.Environment }, []string{}},
		{"environment: [A, _B1]", func(p *policy.Profile) any { return p.Environment }, []string{"A", "_B1"}},
		{"concurrency: 1, queue: 0", func(p *policy.Profile) any { return [2]int{p.Concurrency, p.Queue} }, [2]int{1, 0}},
		{"rate: 10/s", func(p *policy.Profile) any { return p.Rate }, policy.Rate{N: 10, Per: time.Second}},
		{"network: none, seccomp: unconfined", func(p *policy.Profile) any { return [2]string{p.SeccompName, p.Seccomp} }, [2]string{"unconfined", ""}},
	} {
		t.Run(test.text, func(t *testing.T) {
			assert.DeepEqual(t, test.got(profile(t, test.text)), test.want)
		})
	}
}

// Errors name the file, the line, the path in the file, and what is wrong.
func TestParseErrors(t *testing.T) {
	const head = "version: 1\nprofiles: {default: {}}\n"
	in := func(text string) string { return "version: 1\nprofiles:\n  default:\n    " + text + "\n" + rules }
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "P: empty"},
		{"only a comment", "# nothing\n", "P: empty"},
		{"no version, profiles, rules", "{}\n",
			"P:1: version: missing; this is version 1\n" +
				"P:1: profiles: missing\n" +
				"P:1: rules: missing; without a rule every caller is refused"},
		{"version of the future", "version: 2\n" + head[11:] + rules, `P:1: version: "2" is not known; this csbd reads version 1`},
		{"version is null", "version:\n" + head[11:] + rules, "P:1: version: want a value, got nothing"},
		{"version is a list", "version: [1]\n" + head[11:] + rules, "P:1: version: want a value, got a list"},
		{"unknown key", head + rules + "quotas: 1\n", "P:4: quotas: unknown key"},
		{"unknown key that is nearly a known one", head + rules + "pool: []\n", `P:4: pool: unknown key; did you mean "pools"?`},
		{"unknown key in a profile", in("timeuot: 10s"), `P:4: profiles.default.timeuot: unknown key; did you mean "timeout"?`},
		{"unknown key in a limit", in("memory:\n      maximum: 10s"), "P:5: profiles.default.memory.maximum: unknown key"},
		{"unknown key in request", in("request: {cod: 1}"), `P:4: profiles.default.request.cod: unknown key; did you mean "code"?`},
		{"unknown key in a rule", head + "rules:\n- user: root\n  profil: default\n",
			`P:5: rules[0].profil: unknown key; did you mean "profile"?` + "\nP:4: rules[0]: names no profile"},
		{"key in other letters", in("Timeout: 1s"), `P:4: profiles.default.Timeout: unknown key; did you mean "timeout"?`},
		{"merge key", head + rules + "<<: {a: b}\n", "P:4: <<: unknown key"},
		{"duplicate key", "version: 1\n" + head + rules, "P:2: version: stands there twice"},
		{"duplicate profile", "version: 1\nprofiles:\n  default: {}\n  default: {}\n" + rules, "P:4: profiles.default: stands there twice"},
		{"duplicate key in a profile", in("cpus: 1\n    cpus: 2"), "P:5: profiles.default.cpus: stands there twice"},
		{"duplicate image", in("images: [a, b, a]"), `P:4: profiles.default.images[2]: "a" stands there twice`},

		{"bad unit", in("memory: 10XB"), `P:4: profiles.default.memory: size "10XB": want a number of bytes, or one with KiB, MiB or GiB behind it`},
		{"negative size", in("disk: -1MiB"), `P:4: profiles.default.disk: size "-1MiB": want a number of bytes, or one with KiB, MiB or GiB behind it`},
		{"size out of range", in("disk: 99999999TiB"), `P:4: profiles.default.disk: size "99999999TiB": out of range`},
		{"size too large", in("disk: 2TiB"), "P:4: profiles.default.disk: 2TiB: want 64KiB to 1024GiB"},
		{"size too small", in("memory: {default: 1MiB}"), "P:4: profiles.default.memory.default: 1MiB: want 4MiB to 1024GiB"},
		{"bad duration", in("timeout: {default: soon, max: 5x}"),
			`P:4: profiles.default.timeout.default: duration "soon": want a number of seconds, or one with ms, s, m or h behind it` + "\n" +
				`P:4: profiles.default.timeout.max: duration "5x": want a number of seconds, or one with ms, s, m or h behind it`},
		{"duration too long", in("cpu_time: 48h"), "P:4: profiles.default.cpu_time: 48h: want 1ms to 24h0m0s"},
		{"duration of nothing", in("timeout: 0"), "P:4: profiles.default.timeout: 0: want 1ms to 24h0m0s"},
		{"negative duration", in("timeout: -1s"), "P:4: profiles.default.timeout: -1s: want 1ms to 24h0m0s"},
		{"count that is none", in("processes: many"), `P:4: profiles.default.processes: "many" is not a number`},
		{"count with a fraction", in("open_files: 20.5"), `P:4: profiles.default.open_files: "20.5" is not a number`},
		{"count too small", in("open_files: 3"), "P:4: profiles.default.open_files: 3: want 16 to 1048576"},
		{"processors that are none", in("cpus: all"), `P:4: profiles.default.cpus: "all" is not a number`},
		{"too few processors", in("cpus: 0"), "P:4: profiles.default.cpus: 0: want 0.01 to 1024"},
		{"bad rate", in("rate: 10"), `P:4: profiles.default.rate: rate "10": want a positive number of executions per s, min or h, as "6000/min"`},
		{"bad output_exceeded", in("output_exceeded: drop"), `P:4: profiles.default.output_exceeded: "drop": want "truncate" or "kill"`},
		{"network", in("network: host"), `P:4: profiles.default.network: "host": only "none" is possible`},
		{"concurrency of nothing", in("concurrency: 0"), `P:4: profiles.default.concurrency: "0": want a whole number from 1 to 10000`},
		{"negative queue", in("queue: -1"), `P:4: profiles.default.queue: "-1": want a whole number from 0 to 100000`},
		{"no images", in("images: []"), "P:4: profiles.default.images: empty"},
		{"image with a slash", in("images: [a/b]"), `P:4: profiles.default.images[0]: "a/b" is not a name`},
		{"image is null", in("images: [~]"), "P:4: profiles.default.images[0]: want a value, got nothing"},
		{"variable with a dash", in("environment: [A-B]"), `P:4: profiles.default.environment[0]: "A-B" is not a name`},

		{"seccomp file is missing", in("seccomp: /etc/none.json"), "P:4: profiles.default.seccomp: open /etc/none.json: file does not exist"},
		{"seccomp file is text", in("seccomp: text.json"), "P:4: profiles.default.seccomp: text.json: invalid character 's' looking for beginning of value"},
		{"seccomp file is no JSON", in("seccomp: invalid.json"), "P:4: profiles.default.seccomp: invalid.json: invalid character 'x' looking for beginning of value"},
		{"seccomp file is two", in("seccomp: two.json"), "P:4: profiles.default.seccomp: two.json: invalid character '{' after top-level value"},
		{"seccomp file is too large", in("seccomp: large.json"), "P:4: profiles.default.seccomp: large.json: larger than 1MiB"},
		{"seccomp without a default", in("seccomp: empty.json"), "P:4: profiles.default.seccomp: empty.json: no defaultAction"},
		{"seccomp of null", in("seccomp: null.json"), "P:4: profiles.default.seccomp: null.json: no defaultAction"},

		{"profiles is a list", "version: 1\nprofiles: []\n" + rules,
			"P:2: profiles: want a mapping from names to profiles, got a list\n" + `P:3: rules[0].profile: there is no profile "default"`},
		{"profiles is empty", "version: 1\nprofiles: {}\nrules: []\n", "P:2: profiles: empty"},
		{"profiles is null", "version: 1\nprofiles:\nrules: []\n", "P:2: profiles: want a mapping from names to profiles, got nothing"},
		{"profile is a word", "version: 1\nprofiles: {default: loose}\n" + rules, `P:2: profiles.default: want a mapping, got "loose"`},
		{"profile is null", "version: 1\nprofiles:\n  default:\n" + rules, "P:3: profiles.default: want a mapping, got nothing"},
		{"profile's name is none", "version: 1\nprofiles: {a b: {}, default: {}}\n" + rules, "P:2: profiles.a b: not a name"},
		{"images is a word", in("images: python"), `P:4: profiles.default.images: want a list, got "python"`},
		{"limit is a list", in("memory: [1]"), "P:4: profiles.default.memory: want a value, got a list"},
		{"limit is null", in("memory:"), "P:4: profiles.default.memory: want a value, got nothing"},
		{"default is a mapping", in("memory: {default: {}}"), "P:4: profiles.default.memory.default: want a value, got a mapping"},
		{"request is a number", in("request: 5"), `P:4: profiles.default.request: want a mapping, got "5"`},
		{"rules is a mapping", head + "rules: {user: root}\n", "P:3: rules: want a list, got a mapping"},
		{"rules is null", head + "rules:\n", "P:3: rules: want a list, got nothing"},
		{"rule is a word", head + "rules: [root]\n", `P:3: rules[0]: want a mapping, got "root"`},
		{"rule's user is a list", head + "rules: [{group: daemon, user: [root], profile: default}]\n", "P:3: rules[0].user: want a value, got a list"},
		{"rule without user and group", head + "rules: [{profile: default}]\n", `P:3: rules[0]: names neither user nor group; user: "*" matches everybody`},
		{"rule without profile", head + "rules: [{user: root}]\n", "P:3: rules[0]: names no profile"},
		{"rule with an unknown profile", head + "rules:\n- {user: root, profile: default}\n- {user: root, profile: lax}\n", `P:5: rules[1].profile: there is no profile "lax"`},
		{"pools is a mapping", head + rules + "pools: {}\n", "P:4: pools: want a list, got a mapping"},
		{"pool is a word", head + rules + "pools: [python]\n", `P:4: pools[0]: want a mapping, got "python"`},
		{"pool with an unknown profile", head + rules + "pools:\n- image: python\n  profile: lax\n", `P:5: pools[0].profile: there is no profile "lax"`},
		{"pool with an image that its profile lacks", head + rules + "pools: [{image: r, profile: default}]\n", `P:4: pools[0].image: "r" is not one of profile default's images, ["python"]`},
		{"pool of too many", head + rules + "pools: [{image: python, profile: default, ready: 1001}]\n", `P:4: pools[0].ready: "1001": want a whole number from 0 to 1000`},
		{"allow_unenforced of what is always enforced", head + rules + "allow_unenforced: [timeout]\n", `P:4: allow_unenforced: "timeout" is not one of ["memory" "processes" "cpus" "cpu_time"]`},
		{"key is a list", head + rules + "? [a]\n: 1\n", "P:4: want a name as key, got a list"},

		{"several documents", head + rules + "---\n" + head + rules, "P: more than one YAML document"},
		{"rubbish behind the document", head + rules + "...\n{", "P: more than one YAML document"},
		{"too large", "#" + strings.Repeat(" ", policy.MaxSize) + "\n", "P: larger than 1MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := parse(test.text)
			assert.Check(t, p == nil)
			assert.Error(t, err, test.want)
		})
	}
}

// What is wrong with the file as a whole has a line and no path.
func TestErrorsOfTheWholeFile(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"null", "null\n", "P:1: want a mapping, got nothing"},
		{"a list", "\n- 1\n", "P:2: want a mapping, got a list"},
		{"a word", "hello\n", `P:1: want a mapping, got "hello"`},
		{"tab", "version: 1\nprofiles:\n\tdefault: {}\n", "P:3: found character that cannot start any token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(test.text)
			assert.Error(t, err, test.want)
		})
	}
}

// Syntax errors whose line the YAML library does not tell.
func TestSyntaxErrorsWithoutALine(t *testing.T) {
	for _, text := range []string{"\tversion: 1\n", "a: b: c\n", "version: \x01\n", "version: *x\n", "version: [1\n", "%YAML 3.0\n---\n{}\n", "\xfe\xff\x00"} {
		_, err := parse(text)
		assert.ErrorContains(t, err, "P:", "%q", text)
	}
}

// One mistake is one error.
func TestNullIsReportedOnce(t *testing.T) {
	for _, key := range []string{"rate", "network", "output_exceeded", "seccomp", "timeout", "images", "concurrency"} {
		t.Run(key, func(t *testing.T) {
			_, err := parse("version: 1\nprofiles: {default: {" + key + ": }}\n" + rules)
			assert.ErrorContains(t, err, "P:2: profiles.default."+key+": want a ")
			assert.Check(t, is.Len(strings.Split(err.Error(), "\n"), 1), "%v", err)
		})
	}
	_, err := parse("version: 1\nprofiles: {default: {}}\nrules: [{user: , profile: default}]\n")
	assert.Error(t, err, "P:3: rules[0].user: want a value, got nothing")
}

// The value of another key is no substitute for the key.
func TestRuleWithoutProfileForAUserCalledProfile(t *testing.T) {
	_, err := parse("version: 1\nprofiles: {default: {}}\nrules: [{user: profile}]\n")
	assert.Error(t, err, "P:3: rules[0]: names no profile")
}

// Go's words for what is wrong are not ours.
func TestHugeCount(t *testing.T) {
	_, err := parse("version: 1\nprofiles: {default: {processes: 99999999999999999999}}\n" + rules)
	assert.Error(t, err, "P:2: profiles.default.processes: 99999999999999999999: want 1 to 32768")
}

// A default above the maximum is reported where it stands, each of them.
func TestDefaultAboveMax(t *testing.T) {
	for _, test := range []struct{ key, low, high string }{
		{"timeout", "1s", "2s"}, {"cpu_time", "1s", "2s"}, {"memory", "8MiB", "9MiB"}, {"disk", "8MiB", "9MiB"},
		{"output", "1KiB", "2KiB"}, {"processes", "4", "5"}, {"open_files", "20", "21"}, {"cpus", "0.5", "1"},
	} {
		text := "version: 1\nprofiles:\n  default:\n    images: [python]\n    " + test.key + ": {default: " + test.high + ", max: " + test.low + "}\n" + rules
		_, err := parse(text)
		assert.Check(t, is.Error(err, "P:5: profiles.default."+test.key+": default is above max"))
	}
	_, err := parse("version: 1\nprofiles:\n  default:\n    timeout: {default: 2s, max: 1s}\n    disk: {default: 2MiB, max: 1MiB}\n" + rules)
	assert.Error(t, err, "P:4: profiles.default.timeout: default is above max\nP:5: profiles.default.disk: default is above max")
}

func TestAnchorsAndAliases(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"in the document", "version: 1\nprofiles: &x {default: {}}\nrules: []\n", "P:2: profiles: anchors and aliases are not supported"},
		{"profile", "version: 1\nprofiles:\n  default: &x {}\n  b: *x\n" + rules,
			"P:3: profiles.default: anchors and aliases are not supported\nP:4: profiles.b: anchors and aliases are not supported"},
		{"in a profile", "version: 1\nprofiles:\n  default: {disk: &x 1MiB, output: *x}\n" + rules,
			"P:3: profiles.default.disk: anchors and aliases are not supported\nP:3: profiles.default.output: anchors and aliases are not supported"},
		{"in a list", "version: 1\nprofiles: {default: {images: [&x a, *x]}}\n" + rules,
			"P:2: profiles.default.images[0]: anchors and aliases are not supported\nP:2: profiles.default.images[1]: anchors and aliases are not supported"},
		{"as a key", "version: 1\nprofiles: {default: {images: [a]}}\n" + rules + "&x a: 1\n*x : 2\n", "P:5: want a name as key, got an alias"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(test.text)
			assert.ErrorContains(t, err, test.want)
		})
	}
}

// A document that would be gigabytes, were its aliases followed.
func TestBillionLaughs(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\na0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
	}
	start := time.Now()
	_, err := parse(b.String())
	assert.ErrorContains(t, err, "P:2: a0: unknown key")
	assert.Check(t, len(err.Error()) < 10<<10)
	assert.Check(t, time.Since(start) < 10*time.Second)

	profiles := "version: 1\nprofiles:\n  default: {images: &a0 [lol]}\n"
	for i := 1; i < 30; i++ {
		profiles += fmt.Sprintf("  p%d: {images: &a%d [*a%d, *a%d]}\n", i, i, i-1, i-1)
	}
	_, err = parse(profiles + rules)
	assert.ErrorContains(t, err, "P:3: profiles.default.images: anchors and aliases are not supported")
}

// A policy may come from any caller (policy.check): what it costs is bounded,
// and so is what csbd answers.
func TestCostOfABadPolicy(t *testing.T) {
	fill := func(head, tail string, item func(i int) string) string {
		var b strings.Builder
		b.WriteString(head)
		for i := 0; b.Len() < policy.MaxSize-1000; i++ {
			b.WriteString(item(i))
		}
		b.WriteString(tail)
		return b.String()
	}
	for _, test := range []struct{ name, text string }{
		{"unknown keys", fill("version: 1\n", "", func(i int) string { return fmt.Sprintf("a%d:\n", i) })},
		{"profiles", fill("version: 1\nprofiles:\n", rules, func(i int) string { return fmt.Sprintf(" a%d: {}\n", i) })},
		{"images", fill("version: 1\nprofiles: {default: {images: [", "]}}\n"+rules, func(i int) string { return fmt.Sprintf("%x,", i) })},
		{"users", fill("version: 1\nprofiles: {default: {}}\nrules:\n", "", func(i int) string { return fmt.Sprintf("- {user: a%d, profile: default}\n", i) })},
		{"nesting", "version: " + strings.Repeat("[", policy.MaxSize-100)},
		{"deep mappings", "version: " + strings.Repeat("{a: ", 9000) + "x" + strings.Repeat("}", 9000) + "\n"},
		{"long word", "version: " + strings.Repeat("x", policy.MaxSize-100)},
	} {
		t.Run(test.name, func(t *testing.T) {
			start := time.Now()
			_, err := policy.Parse(policy.Source{Name: "P", Data: []byte(test.text)})
			took := time.Since(start)
			assert.Check(t, err != nil)
			if err != nil {
				assert.Check(t, len(err.Error()) < 64<<10, "%d bytes of errors", len(err.Error()))
			}
			assert.Check(t, took < 10*time.Second, "took %v", took)
		})
	}
}

func TestUnknownUsersAndGroupsNeverMatch(t *testing.T) {
	p := mustParse(t, `version: 1
profiles: {default: {}}
rules:
- {user: no-such-user, profile: default}
- {group: no-such-group, profile: default}
- {user: "*", group: no-such-group, profile: default}
- {user: root, group: no-such-group, profile: default}
`)
	assert.DeepEqual(t, p.Warnings, []string{
		`P:4: rules[0].user: there is no user "no-such-user"; the rule never matches`,
		`P:5: rules[1].group: there is no group "no-such-group"; the rule never matches`,
		`P:6: rules[2].group: there is no group "no-such-group"; the rule never matches`,
		`P:7: rules[3].group: there is no group "no-such-group"; the rule never matches`,
	})
	for _, c := range []policy.Caller{{}, {UID: 0, Groups: []uint32{0}}, {UID: 1<<32 - 1, Groups: []uint32{0, 1<<32 - 1}}} {
		_, _, err := p.Match(c)
		assert.ErrorContains(t, err, "no rule of the policy matches")
	}
}

func TestPools(t *testing.T) {
	p := mustParse(t, `version: 1
profiles: {default: {images: [a, b]}}
rules: [{user: root, profile: default}]
pools:
- {image: a, profile: default, ready: 4}
- {image: b, profile: default, ready: 1, max: 3}
- {image: b, profile: default}
- {image: b, profile: default, ready: 0}
allow_unenforced: [memory, cpus]
`)
	assert.DeepEqual(t, p.Pools, []policy.Pool{
		{Image: "a", Profile: "default", Ready: 4, Max: 4},
		{Image: "b", Profile: "default", Ready: 1, Max: 3},
		{Image: "b", Profile: "default", Ready: 1, Max: 1},
		{Image: "b", Profile: "default"},
	})
	assert.DeepEqual(t, p.AllowUnenforced, []string{"memory", "cpus"})
	assert.Check(t, is.Len(p.Warnings, 0))
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "policy.yaml")
	_, err := policy.Load(file)
	assert.Check(t, errors.Is(err, fs.ErrNotExist))
	assert.ErrorContains(t, err, file)

	// A seccomp profile is named relative to the policy.
	text := "version: 1\nprofiles: {default: {seccomp: allow.json}}\n" + rules
	assert.NilError(t, os.WriteFile(file, []byte(text), 0o600))
	_, err = policy.Load(file)
	assert.Error(t, err, file+":2: profiles.default.seccomp: open "+dir+"/allow.json: no such file or directory")
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "allow.json"), []byte(files["allow.json"]), 0o600))
	p, err := policy.Load(file)
	assert.NilError(t, err)
	assert.Equal(t, p.Profiles()[0].Seccomp, `{"defaultAction":"SCMP_ACT_ALLOW"}`)

	assert.NilError(t, os.WriteFile(file, make([]byte, policy.MaxSize+1), 0o600))
	_, err = policy.Load(file)
	assert.Error(t, err, file+": larger than 1MiB")
}

// FuzzPolicy holds that no text makes Parse panic, that an accepted policy's
// defaults are usable and below its maxima, that each of its rules leads to a
// profile, and that an error begins with the name.
func FuzzPolicy(f *testing.F) {
	sample, err := os.ReadFile("../packaging/policy.yaml")
	assert.NilError(f, err)
	f.Add(sample)
	for _, text := range []string{
		"", "version: 1\n", "version: 1\nprofiles: {default: {}}\n" + rules,
		"version: 1\nprofiles: {default: {memory: {default: 1GiB, max: 1MiB}}}\n" + rules,
		"version: 1\nprofiles: {a: {timeout: 1s, cpus: 0.5, rate: 1/s, seccomp: allow.json}}\nrules: [{user: \"*\", profile: a}]\npools: [{image: python, profile: a}]\n",
		"version: 1\nprofiles: {default: {}}\nrules: [{user: profile}]\n",
		"a: &a [*a]\n", "? [a]\n: 1\n", "--- \n...\n---\n", "!!set {a}\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policy.Parse(policy.Source{Name: "NAME", Data: data, ReadFile: readFile})
		if err != nil {
			for _, e := range strings.Split(err.Error(), "\nNAME:") {
				if e = strings.TrimPrefix(e, "NAME:"); e == "" {
					t.Errorf("an empty error in %q", err)
				}
			}
			if !strings.HasPrefix(err.Error(), "NAME:") {
				t.Errorf("%q does not begin with the name", err)
			}
			return
		}
		if len(p.Profiles()) == 0 {
			t.Error("a policy without profiles was accepted")
		}
		for _, pr := range p.Profiles() {
			if name := pr.Default.Exceeds(pr.Max); name != "" {
				t.Errorf("profile %s: %s: default is above max", pr.Name, name)
			}
			if err := pr.Default.Validate(); err != nil {
				t.Errorf("profile %s: %v", pr.Name, err)
			}
			if _, err := pr.Decide(policy.Request{}); err != nil {
				t.Errorf("profile %s refuses a request for its defaults: %v", pr.Name, err)
			}
			if pr.Concurrency < 1 || pr.Queue < 0 || pr.Rate.N < 1 || pr.Rate.Per <= 0 {
				t.Errorf("profile %s admits nobody: %+v", pr.Name, pr)
			}
		}
		for _, c := range []policy.Caller{{}, {UID: 1, Groups: []uint32{1}}, {UID: 65534, Groups: []uint32{65534, 4}}} {
			if pr, rule, err := p.Match(c); err == nil && (pr == nil || rule == "") {
				t.Errorf("a rule (%q) leads to profile %v", rule, pr)
			}
		}
	})
}
