package policy

import (
	"reflect"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/isolation"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	const base = "version: 1\nprofiles: {default: {}, small: {memory: 64MiB}}\nrules: [{user: 0, profile: default}]\npools: [{image: python, profile: default, ready: 1}]\n"
	for _, c := range []struct{ from, to, want string }{
		{"", "", ""},
		{"", "# a comment\n", ""},
		{"{default: {}", "{default: {timeout: {default: 10s, max: 60s}}", ""},
		{"{default: {}", "{default: {timeout: 5s, seccomp: unconfined, rate: 1/s}", "profile default: timeout, seccomp, rate"},
		{"small: {memory: 64MiB}", "small: {memory: {default: 64MiB, max: 65MiB}, images: [ruby], request: {code: 1}}", "profile small: images, memory, request"},
		{"small: {memory: 64MiB}", "big: {cpus: 4}", "profile big added; profile small removed"},
		{"user: 0", "user: 1", "rules"},
		{"{user: 0, profile: default}", "{user: 0, profile: small}", "rules"},
		{"[{user: 0, profile: default}]", "[{user: 0, profile: default}, {user: '*', profile: small}]", "rules"},
		{"ready: 1", "ready: 2", "pools"},
		{"version: 1\n", "version: 1\nallow_unenforced: [memory]\n", "allow_unenforced"},
	} {
		parse := func(text string) *Policy {
			p, err := Parse(Source{Name: "policy", Data: []byte(text)})
			assert.NilError(t, err)
			return p
		}
		next := strings.Replace(base, c.from, c.to, 1)
		if strings.HasPrefix(c.to, "#") {
			next = c.to + base
		}
		assert.Equal(t, strings.Join(parse(next).Changes(parse(base)), "; "), c.want)
	}
}

// TestChangesNameEverything: no field of a profile, nor of its limits, can
// change in silence.
func TestChangesNameEverything(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	fields := reflect.TypeFor[Profile]()
	for i := range fields.NumField() {
		if fields.Field(i).Type == reflect.TypeFor[isolation.Limits]() {
			limits := fields.Field(i).Type
			for j := range limits.NumField() {
				pr := builtin("p")
				alter(t, reflect.ValueOf(pr).Elem().Field(i).Field(j))
				keys := pr.changes(builtin("p"))
				assert.Equal(t, len(keys), 1, "%s.%s: %q", fields.Field(i).Name, limits.Field(j).Name, keys)
				seen[keys[0]] = true
			}
			continue
		}
		pr := builtin("p")
		if fields.Field(i).Name == "Name" {
			continue // another name is another profile
		}
		alter(t, reflect.ValueOf(pr).Elem().Field(i))
		keys := pr.changes(builtin("p"))
		assert.Equal(t, len(keys), 1, "%s: %q", fields.Field(i).Name, keys)
		seen[keys[0]] = true
	}
	assert.Check(t, len(seen) == 16, "%v", seen)
}

// alter gives v another value.
func alter(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Float64:
		v.SetFloat(v.Float() + 1)
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Slice:
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
	case reflect.Struct:
		alter(t, v.Field(0))
	default:
		t.Fatalf("a field of type %v", v.Type())
	}
}
