package policy_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
)

func refusal(t testing.TB, err error) *policy.Refusal {
	t.Helper()
	var r *policy.Refusal
	assert.Assert(t, errors.As(err, &r), "%v is not a refusal", err)
	return r
}

func TestMatch(t *testing.T) {
	// daemon is uid 1 and gid 1 on every Debian.
	p := mustParse(t, `version: 1
profiles: {a: {}, b: {}, c: {}, d: {}, e: {}, f: {}}
rules:
- {user: root, profile: a}
- {user: 0, profile: b}
- {user: daemon, group: 5000, profile: b}
- {group: daemon, profile: c}
- {user: 4000, profile: d}
- {user: "*", group: 6000, profile: e}
- {group: 7000, profile: f}
`)
	for _, test := range []struct {
		name          string
		caller        policy.Caller
		profile, rule string
	}{
		{"user by name", policy.Caller{UID: 0, Groups: []uint32{0}}, "a", "rule 1 (user root)"},
		{"first match wins", policy.Caller{UID: 0, Groups: []uint32{1, 5000, 6000}}, "a", "rule 1 (user root)"},
		{"user and group", policy.Caller{UID: 1, Groups: []uint32{1, 5000}}, "b", "rule 3 (user daemon) (group 5000)"},
		{"user without the rule's group", policy.Caller{UID: 1, Groups: []uint32{1}}, "c", "rule 4 (group daemon)"},
		{"group without the rule's user", policy.Caller{UID: 2, Groups: []uint32{5000}}, "", ""},
		{"group by name", policy.Caller{UID: 9, Groups: []uint32{9, 1}}, "c", "rule 4 (group daemon)"},
		{"user by number", policy.Caller{UID: 4000}, "d", "rule 5 (user 4000)"},
		{"uid is not gid", policy.Caller{UID: 7000, Groups: []uint32{4000}}, "", ""},
		{"everybody in a group", policy.Caller{UID: 12, Groups: []uint32{6000}}, "e", "rule 6 (group 6000)"},
		{"group by number", policy.Caller{UID: 12, Groups: []uint32{7000}}, "f", "rule 7 (group 7000)"},
		{"nobody", policy.Caller{UID: 12, Groups: []uint32{12}}, "", ""},
		{"largest uid", policy.Caller{UID: 1<<32 - 1, Groups: []uint32{1<<32 - 1}}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, rule, err := p.Match(test.caller)
			if test.profile == "" {
				r := refusal(t, err)
				assert.Check(t, got == nil)
				assert.Equal(t, r.Rule, "no rule matches")
				assert.Equal(t, r.Field, "")
				assert.Check(t, !r.Invalid)
				return
			}
			assert.NilError(t, err)
			assert.Equal(t, got.Name, test.profile)
			assert.Equal(t, rule, test.rule)
		})
	}
	_, _, err := p.Match(policy.Caller{UID: 12})
	assert.Error(t, err, "no rule of the policy matches uid 12")
}

func TestUserStarMatchesEverybody(t *testing.T) {
	p := mustParse(t, "version: 1\nprofiles: {default: {}}\nrules: [{user: \"*\", profile: default}]\n")
	for _, c := range []policy.Caller{{}, {UID: 1000, Groups: []uint32{1000}}, {UID: 1<<32 - 1}} {
		_, rule, err := p.Match(c)
		assert.NilError(t, err)
		assert.Equal(t, rule, "rule 1")
	}
}

// bounded has a default, a maximum and another maximum for each limit.
const bounded = `images: [python, r], environment: [LANG],
  timeout: {default: 2s, max: 4s}, cpu_time: {default: 3s, max: 5s}, memory: {default: 8MiB, max: 16MiB},
  disk: {default: 1MiB, max: 2MiB}, output: {default: 3KiB, max: 1500}, processes: {default: 2, max: 4},
  open_files: {default: 20, max: 40}, cpus: 0.5, request: {code: 10, stdin: 20, files: 30}`

func boundedProfile(t testing.TB) *policy.Profile {
	return profile(t, strings.Replace(bounded, "{default: 3KiB, max: 1500}", "{default: 1KiB, max: 1500}", 1))
}

func ptr[T any](v T) *T { return &v }

func TestDecideDefaults(t *testing.T) {
	p := boundedProfile(t)
	d, err := p.Decide(policy.Request{})
	assert.NilError(t, err)
	assert.Equal(t, d.Image, "python")
	assert.Check(t, d.Profile == p)
	assert.DeepEqual(t, d.Limits, isolation.Limits{Timeout: 2 * time.Second, CPUTime: 3 * time.Second, Memory: 8 << 20, Disk: 1 << 20,
		Output: 1 << 10, Processes: 2, OpenFiles: 20, CPUs: 0.5})
}

// Each limit at and beyond both of its bounds.
func TestDecideLimits(t *testing.T) {
	p := boundedProfile(t)
	duration := func(set func(*policy.Overrides, *time.Duration), get func(isolation.Limits) time.Duration) func(int64) (policy.Overrides, func(isolation.Limits) int64) {
		return func(v int64) (o policy.Overrides, _ func(isolation.Limits) int64) {
			set(&o, ptr(time.Duration(v)))
			return o, func(l isolation.Limits) int64 { return int64(get(l)) }
		}
	}
	size := func(set func(*policy.Overrides, *int64), get func(isolation.Limits) int64) func(int64) (policy.Overrides, func(isolation.Limits) int64) {
		return func(v int64) (o policy.Overrides, _ func(isolation.Limits) int64) {
			set(&o, &v)
			return o, get
		}
	}
	count := func(set func(*policy.Overrides, *int), get func(isolation.Limits) int) func(int64) (policy.Overrides, func(isolation.Limits) int64) {
		return func(v int64) (o policy.Overrides, _ func(isolation.Limits) int64) {
			set(&o, ptr(int(v)))
			return o, func(l isolation.Limits) int64 { return int64(get(l)) }
		}
	}
	for _, test := range []struct {
		name         string
		least, most  int64
		ask          func(int64) (policy.Overrides, func(isolation.Limits) int64)
		below, above string
	}{
		{"timeout", 1e6, 4e9,
			duration(func(o *policy.Overrides, v *time.Duration) { o.Timeout = v }, func(l isolation.Limits) time.Duration { return l.Timeout }),
			"timeout 999.999µs is below the least possible, 1ms", "timeout 4.000000001s is above the profile's maximum, 4s"},
		{"cpu_time", 1e6, 5e9,
			duration(func(o *policy.Overrides, v *time.Duration) { o.CPUTime = v }, func(l isolation.Limits) time.Duration { return l.CPUTime }),
			"cpu_time 999.999µs is below the least possible, 1ms", "cpu_time 5.000000001s is above the profile's maximum, 5s"},
		{"memory", 4 << 20, 16 << 20,
			size(func(o *policy.Overrides, v *int64) { o.Memory = v }, func(l isolation.Limits) int64 { return l.Memory }),
			"memory 4194303B is below the least possible, 4MiB", "memory 16777217B is above the profile's maximum, 16MiB"},
		{"disk", 64 << 10, 2 << 20,
			size(func(o *policy.Overrides, v *int64) { o.Disk = v }, func(l isolation.Limits) int64 { return l.Disk }),
			"disk 65535B is below the least possible, 64KiB", "disk 2097153B is above the profile's maximum, 2MiB"},
		{"output", 1, 1500,
			size(func(o *policy.Overrides, v *int64) { o.Output = v }, func(l isolation.Limits) int64 { return l.Output }),
			"output 0B is below the least possible, 1B", "output 1501B is above the profile's maximum, 1500B"},
		{"processes", 1, 4,
			count(func(o *policy.Overrides, v *int) { o.Processes = v }, func(l isolation.Limits) int { return l.Processes }),
			"processes 0 is below the least possible, 1", "processes 5 is above the profile's maximum, 4"},
		{"open_files", 16, 40,
			count(func(o *policy.Overrides, v *int) { o.OpenFiles = v }, func(l isolation.Limits) int { return l.OpenFiles }),
			"open_files 15 is below the least possible, 16", "open_files 41 is above the profile's maximum, 40"},
	} {
		t.Run(test.name, func(t *testing.T) {
			defaults, err := p.Decide(policy.Request{})
			assert.NilError(t, err)
			for _, value := range []int64{test.least, test.least + 1, test.most - 1, test.most} {
				o, get := test.ask(value)
				d, err := p.Decide(policy.Request{Limits: o})
				assert.NilError(t, err)
				assert.Equal(t, get(d.Limits), value)
				// Nothing else changed.
				_, was := test.ask(0)
				changed := 0
				for _, other := range []bool{
					d.Limits.Timeout != defaults.Limits.Timeout, d.Limits.CPUTime != defaults.Limits.CPUTime,
					d.Limits.Memory != defaults.Limits.Memory, d.Limits.Disk != defaults.Limits.Disk,
					d.Limits.Output != defaults.Limits.Output, d.Limits.Processes != defaults.Limits.Processes,
					d.Limits.OpenFiles != defaults.Limits.OpenFiles, d.Limits.CPUs != defaults.Limits.CPUs,
				} {
					if other {
						changed++
					}
				}
				if was(defaults.Limits) == value {
					assert.Equal(t, changed, 0)
				} else {
					assert.Equal(t, changed, 1)
				}
			}
			for _, beyond := range []struct {
				value   int64
				want    string
				invalid bool
			}{
				{test.least - 1, test.below, true},
				{test.most + 1, test.above, false},
			} {
				o, _ := test.ask(beyond.value)
				d, err := p.Decide(policy.Request{Limits: o})
				r := refusal(t, err)
				assert.Equal(t, r.Reason, beyond.want)
				assert.Equal(t, r.Error(), beyond.want)
				assert.Equal(t, r.Field, "limits."+test.name)
				assert.Equal(t, r.Rule, "profile default")
				assert.Equal(t, r.Invalid, beyond.invalid)
				assert.DeepEqual(t, d, policy.Decision{})
			}
			for _, absurd := range []int64{-1, -1 << 63, 1<<63 - 1} {
				o, _ := test.ask(absurd)
				_, err := p.Decide(policy.Request{Limits: o})
				assert.Equal(t, refusal(t, err).Field, "limits."+test.name)
			}
		})
	}
}

func TestDecideRest(t *testing.T) {
	p := boundedProfile(t)
	for _, test := range []struct {
		name        string
		request     policy.Request
		field, want string
	}{
		{"second image", policy.Request{Image: "r"}, "", ""},
		{"another image", policy.Request{Image: "perl"}, "image", `image "perl" is not one of ["python" "r"]`},
		{"sizes at the bound", policy.Request{Sizes: policy.Sizes{Code: 10, Stdin: 20, Files: 30}}, "", ""},
		{"code", policy.Request{Sizes: policy.Sizes{Code: 11}}, "code", "code has 11 bytes, more than the 10B (10 bytes) allowed"},
		{"stdin", policy.Request{Sizes: policy.Sizes{Stdin: 21}}, "stdin", "stdin has 21 bytes, more than the 20B (20 bytes) allowed"},
		{"files", policy.Request{Sizes: policy.Sizes{Files: 31}}, "files", "files has 31 bytes, more than the 30B (30 bytes) allowed"},
		{"variable", policy.Request{Environment: []string{"LANG"}}, "", ""},
		{"another variable", policy.Request{Environment: []string{"LANG", "LD_PRELOAD"}}, "environment.LD_PRELOAD", `environment variable "LD_PRELOAD" is not one of ["LANG"]`},
		{"variable in other letters", policy.Request{Environment: []string{"lang"}}, "environment.lang", `environment variable "lang" is not one of ["LANG"]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := p.Decide(test.request)
			if test.want == "" {
				assert.NilError(t, err)
				assert.Check(t, test.request.Image == "" || d.Image == test.request.Image)
				return
			}
			r := refusal(t, err)
			assert.Equal(t, r.Reason, test.want)
			assert.Equal(t, r.Field, test.field)
			assert.Equal(t, r.Rule, "profile default")
			assert.Check(t, !r.Invalid)
		})
	}
}

// A refusal is logged and answered: a caller does not decide how long it is.
func TestRefusalIsShort(t *testing.T) {
	p := boundedProfile(t)
	long := strings.Repeat("x", 1<<20)
	for _, r := range []policy.Request{{Image: long}, {Environment: []string{long}}} {
		_, err := p.Decide(r)
		assert.Check(t, len(refusal(t, err).Reason) < 1<<10, "%d bytes", len(err.Error()))
		assert.Check(t, len(refusal(t, err).Field) < 1<<10)
	}
}

// The killing of what writes too much is the policy's decision alone.
func TestDecideKeepsKillOnOutput(t *testing.T) {
	d, err := profile(t, "output_exceeded: kill").Decide(policy.Request{Limits: policy.Overrides{Output: ptr(int64(100))}})
	assert.NilError(t, err)
	assert.Check(t, d.Limits.KillOnOutput)
	assert.Equal(t, d.Limits.Output, int64(100))
}

func TestDecisionsAliasNothing(t *testing.T) {
	p := boundedProfile(t)
	before := *p
	before.Images, before.Environment = slices.Clone(p.Images), slices.Clone(p.Environment)
	memory := int64(9 << 20)
	d, err := p.Decide(policy.Request{Limits: policy.Overrides{Memory: &memory}})
	assert.NilError(t, err)
	memory = 1 << 40
	assert.Equal(t, d.Limits.Memory, int64(9<<20))
	d.Limits.Timeout, d.Limits.CPUs, d.Image = time.Hour, 64, "other"
	assert.DeepEqual(t, *p, before)
	again, err := p.Decide(policy.Request{})
	assert.NilError(t, err)
	assert.Equal(t, again.Limits.Timeout, 2*time.Second)
}

// Under the race detector: matching and deciding only read.
func TestDecideConcurrently(t *testing.T) {
	p, err := policy.Load("../packaging/policy.yaml")
	assert.NilError(t, err)
	before := *p.Profiles()[0]
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				pr, _, err := p.Match(policy.Caller{UID: 0})
				if err != nil {
					t.Error(err)
					return
				}
				ask := int64(i*1000+j) + 4<<20
				d, err := pr.Decide(policy.Request{Environment: []string{"TZ"}, Limits: policy.Overrides{Memory: &ask}})
				if err != nil || d.Limits.Memory != ask {
					t.Errorf("asked %d, got %d, %v", ask, d.Limits.Memory, err)
					return
				}
				d.Limits.Memory = 0
				_, err = pr.Decide(policy.Request{Limits: policy.Overrides{Memory: ptr(int64(1 << 50))}})
				if err == nil {
					t.Error("a petabyte was granted")
				}
				p.Profiles()
			}
		})
	}
	wg.Wait()
	assert.DeepEqual(t, *p.Profiles()[0], before)
}

// Profiles are listed by name whatever the order of the file.
func TestProfilesAreSorted(t *testing.T) {
	p := mustParse(t, "version: 1\nprofiles: {c: {}, a: {}, b: {}}\nrules: []\n")
	var names []string
	for _, pr := range p.Profiles() {
		names = append(names, pr.Name)
	}
	assert.Check(t, is.DeepEqual(names, []string{"a", "b", "c"}))
}

func BenchmarkDecide(b *testing.B) {
	p, err := policy.Load("../packaging/policy.yaml")
	assert.NilError(b, err)
	timeout, memory := 5*time.Second, int64(128<<20)
	caller := policy.Caller{UID: 0, Groups: []uint32{0}}
	request := policy.Request{Environment: []string{"TZ"}, Sizes: policy.Sizes{Code: 1000},
		Limits: policy.Overrides{Timeout: &timeout, Memory: &memory}}
	b.ReportAllocs()
	for b.Loop() {
		pr, _, err := p.Match(caller)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := pr.Decide(request); err != nil {
			b.Fatal(err)
		}
	}
}
