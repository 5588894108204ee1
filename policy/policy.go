// Package policy says who may run what within which limits: a YAML file,
// parsed strictly into an immutable Policy, and pure decisions from it.
package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fcarli/codesandbox/isolation"
)

// A Policy is one parsed policy file. It never changes.
type Policy struct {
	profiles map[string]*Profile
	rules    []rule
	// Pools to keep ready.
	Pools []Pool
	// AllowUnenforced names the limits that this host need not enforce.
	AllowUnenforced []string
	// Warnings are oddities that are not errors, as "FILE:LINE: …".
	Warnings []string
}

// A Profile is a named set of ceilings and defaults.
type Profile struct {
	Name string
	// Images that may be asked for; the first is the default.
	Images []string
	// Default limits, and the most that a request may ask for.
	Default, Max isolation.Limits
	// Request bounds the parts of a request, in bytes.
	Request Sizes
	// SeccompName is what the policy says ("default", "unconfined", a path);
	// Seccomp the OCI JSON it stands for, "" for unconfined.
	SeccompName, Seccomp string
	// Environment lists the names that a request may set.
	Environment []string
	// Concurrency is how many executions one user may have running, Queue how
	// many waiting.
	Concurrency, Queue int
	// Rate is how many executions one user may start in a time.
	Rate Rate
}

// Sizes bound the parts of a request, in bytes.
type Sizes struct{ Code, Stdin, Files int64 }

// A Pool asks for sandboxes to be kept ready.
type Pool struct {
	Image, Profile string
	Ready, Max     int
}

type rule struct {
	name    string // "rule 2 (group csb)"
	uid     *uint32
	gid     *uint32
	never   bool // names a user or group that does not exist
	profile *Profile
}

// A Caller is who asks, as the kernel says.
type Caller struct {
	UID    uint32
	Groups []uint32 // the primary one included
}

// A Request is what a caller asks for, as far as it has to be decided.
type Request struct {
	// Image is a name, or "" for the profile's default.
	Image string
	// Limits that are asked for; nil is the profile's default.
	Limits Overrides
	// Environment lists the names of the variables to set.
	Environment []string
	// Sizes of the request's parts, in bytes.
	Sizes Sizes
}

// Overrides are the limits that a request names.
type Overrides struct {
	Timeout, CPUTime     *time.Duration
	Memory, Disk, Output *int64
	Processes, OpenFiles *int
}

// A Decision is what may be run.
type Decision struct {
	Profile *Profile
	Image   string
	Limits  isolation.Limits
}

// A Refusal is a decision against a request.
type Refusal struct {
	// Rule that decided, as "rule 2 (group csb)" or "profile default".
	Rule string
	// Field of the request that was refused, as "limits.memory", or "".
	Field string
	// Invalid says that no policy could allow it.
	Invalid bool
	Reason  string
}

func (r *Refusal) Error() string { return r.Reason }

// Match finds the first rule that matches the caller: its profile and what to
// call it. Its error is a *Refusal.
func (p *Policy) Match(c Caller) (*Profile, string, error) {
	for _, r := range p.rules {
		if r.never || r.uid != nil && *r.uid != c.UID {
			continue
		}
		if r.gid != nil && !slices.Contains(c.Groups, *r.gid) {
			continue
		}
		return r.profile, r.name, nil
	}
	return nil, "", &Refusal{Rule: "no rule matches", Reason: fmt.Sprintf("no rule of the policy matches uid %d", c.UID)}
}

// Profile returns the profile of that name, or nil.
func (p *Policy) Profile(name string) *Profile { return p.profiles[name] }

// Profiles returns every profile, by name.
func (p *Policy) Profiles() []*Profile {
	return slices.SortedFunc(maps.Values(p.profiles), func(a, b *Profile) int { return cmp.Compare(a.Name, b.Name) })
}

// Decide says what a request may run under this profile. Its error is a
// *Refusal.
func (p *Profile) Decide(r Request) (Decision, error) {
	d := Decision{Profile: p, Image: r.Image, Limits: p.Default}
	if d.Image == "" {
		d.Image = p.Images[0]
	}
	if !slices.Contains(p.Images, d.Image) {
		return Decision{}, p.refuse("image", "image %.100q is not one of %q", d.Image, p.Images)
	}
	for _, part := range []struct {
		field     string
		have, max int64
	}{
		{"code", r.Sizes.Code, p.Request.Code},
		{"stdin", r.Sizes.Stdin, p.Request.Stdin},
		{"files", r.Sizes.Files, p.Request.Files},
	} {
		if part.have > part.max {
			return Decision{}, p.refuse(part.field, "%s has %d bytes, more than the %s (%d bytes) allowed",
				part.field, part.have, FormatSize(part.max), part.max)
		}
	}
	for _, name := range r.Environment {
		if !slices.Contains(p.Environment, name) {
			return Decision{}, p.refuse(fmt.Sprintf("environment.%.100s", name), "environment variable %.100q is not one of %q", name, p.Environment)
		}
	}
	o, l := r.Limits, &d.Limits
	for _, err := range []error{
		override(p, "timeout", o.Timeout, &l.Timeout, minimum.Timeout, p.Max.Timeout, time.Duration.String),
		override(p, "cpu_time", o.CPUTime, &l.CPUTime, minimum.CPUTime, p.Max.CPUTime, time.Duration.String),
		override(p, "memory", o.Memory, &l.Memory, minimum.Memory, p.Max.Memory, FormatSize),
		override(p, "disk", o.Disk, &l.Disk, minimum.Disk, p.Max.Disk, FormatSize),
		override(p, "output", o.Output, &l.Output, minimum.Output, p.Max.Output, FormatSize),
		override(p, "processes", o.Processes, &l.Processes, minimum.Processes, p.Max.Processes, itoa),
		override(p, "open_files", o.OpenFiles, &l.OpenFiles, minimum.OpenFiles, p.Max.OpenFiles, itoa),
	} {
		if err != nil {
			return Decision{}, err
		}
	}
	return d, nil
}

// minimum is the least of each limit with which a program can start at all.
var minimum = isolation.Limits{
	Timeout:   time.Millisecond,
	CPUTime:   time.Millisecond,
	Memory:    4 << 20,
	Disk:      64 << 10,
	Output:    1,
	Processes: 1,
	OpenFiles: 16,
	CPUs:      0.01,
}

func itoa(n int) string { return fmt.Sprint(n) }

func override[T int | int64 | time.Duration](p *Profile, name string, asked, limit *T, least, most T, format func(T) string) error {
	if asked == nil {
		return nil
	}
	field := "limits." + name
	if *asked < least {
		err := p.refuse(field, "%s %s is below the least possible, %s", name, format(*asked), format(least))
		err.Invalid = true
		return err
	}
	if *asked > most {
		return p.refuse(field, "%s %s is above the profile's maximum, %s", name, format(*asked), format(most))
	}
	*limit = *asked
	return nil
}

func (p *Profile) refuse(field, format string, args ...any) *Refusal {
	return &Refusal{Rule: "profile " + p.Name, Field: field, Reason: fmt.Sprintf(format, args...)}
}
