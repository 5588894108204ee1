package policy

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/fcarli/codesandbox/isolation"
)

// Changes says in a few words each what is different from an older policy in
// effect, in the order profiles, rules, pools: "profile big added", "profile
// default: memory, timeout", "rules", "pools". It is empty when both decide
// alike, whatever their files look like.
func (p *Policy) Changes(old *Policy) []string {
	var list []string
	for _, pr := range p.Profiles() {
		if was := old.Profile(pr.Name); was == nil {
			list = append(list, fmt.Sprintf("profile %s added", pr.Name))
		} else if keys := pr.changes(was); len(keys) > 0 {
			list = append(list, fmt.Sprintf("profile %s: %s", pr.Name, strings.Join(keys, ", ")))
		}
	}
	for _, was := range old.Profiles() {
		if p.Profile(was.Name) == nil {
			list = append(list, fmt.Sprintf("profile %s removed", was.Name))
		}
	}
	if !slices.EqualFunc(p.rules, old.rules, func(a, b rule) bool {
		return a.name == b.name && a.never == b.never && a.profile.Name == b.profile.Name &&
			reflect.DeepEqual(a.uid, b.uid) && reflect.DeepEqual(a.gid, b.gid)
	}) {
		list = append(list, "rules")
	}
	if !slices.Equal(inOrder(p.Pools), inOrder(old.Pools)) {
		list = append(list, "pools")
	}
	if !slices.Equal(p.AllowUnenforced, old.AllowUnenforced) {
		list = append(list, "allow_unenforced")
	}
	return list
}

func inOrder(pools []Pool) []Pool {
	return slices.SortedFunc(slices.Values(pools), func(a, b Pool) int {
		return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Profile, b.Profile), cmp.Compare(a.Ready, b.Ready), cmp.Compare(a.Max, b.Max))
	})
}

// changes are the keys of the policy file whose values are different.
func (p *Profile) changes(old *Profile) []string {
	var keys []string
	differ := func(key string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			keys = append(keys, key)
		}
	}
	// Each limit is two values.
	limit := func(key string, of func(isolation.Limits) any) {
		differ(key, []any{of(p.Default), of(p.Max)}, []any{of(old.Default), of(old.Max)})
	}
	differ("images", p.Images, old.Images)
	limit("timeout", func(l isolation.Limits) any { return l.Timeout })
	limit("cpu_time", func(l isolation.Limits) any { return l.CPUTime })
	limit("memory", func(l isolation.Limits) any { return l.Memory })
	limit("disk", func(l isolation.Limits) any { return l.Disk })
	limit("output", func(l isolation.Limits) any { return l.Output })
	limit("output_exceeded", func(l isolation.Limits) any { return l.KillOnOutput })
	limit("processes", func(l isolation.Limits) any { return l.Processes })
	limit("open_files", func(l isolation.Limits) any { return l.OpenFiles })
	limit("cpus", func(l isolation.Limits) any { return l.CPUs })
	differ("request", p.Request, old.Request)
	differ("seccomp", []string{p.SeccompName, p.Seccomp}, []string{old.SeccompName, old.Seccomp})
	differ("environment", p.Environment, old.Environment)
	differ("concurrency", p.Concurrency, old.Concurrency)
	differ("queue", p.Queue, old.Queue)
	differ("rate", p.Rate, old.Rate)
	return keys
}
