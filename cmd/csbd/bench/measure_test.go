package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
)

// What csbd is started with has to be a policy that it takes.
func TestPolicy(t *testing.T) {
	for _, k := range []kind{kindPandas, kindBare, kindEmpty, kindRSS} {
		file := filepath.Join(t.TempDir(), "policy.yaml")
		assert.NilError(t, writePolicy(file, k))
		p, err := policy.Load(file)
		assert.NilError(t, err)
		assert.DeepEqual(t, p.Pools, []policy.Pool{{Image: k.image, Profile: "default", Ready: k.ready, Max: k.ready}})
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"--quick", "--launcher", "stock", "--only", "^cpu$"}, &strings.Builder{})
	assert.NilError(t, err)
	assert.Check(t, o.quick && o.only.MatchString("cpu") && !o.only.MatchString("rss"))
	assert.DeepEqual(t, o.launchers, []string{"stock"})
	assert.DeepEqual(t, o.rssCounts, []int{1000, 10000})
	for _, args := range [][]string{{"x"}, {"--only", "("}, {"--rss-counts", "10"}, {"--rss-counts", "10,5"}, {"--rss-counts", "a,b"}, {"--no-such"}} {
		_, err := parse(args, &strings.Builder{})
		assert.Check(t, err != nil, "%q", args)
	}
}

func TestGrowth(t *testing.T) {
	amounts := []int{1, 10, 100}
	for _, c := range []struct {
		name  string
		costs []float64
		want  float64
	}{
		{"constant", []float64{5, 5, 5}, 0.1},
		{"linear", []float64{5, 50, 500}, 1},
		{"quadratic at the end", []float64{5, 5, 500}, 10},
		{"one missing", []float64{5, 0, 500}, 0},
	} {
		assert.Equal(t, worstGrowth(amounts, c.costs), c.want, c.name)
	}
	assert.Equal(t, worstGrowth([]int{0, 64, 128}, []float64{5, 50, 100}), 1.0) // from nothing is no step
	assert.Check(t, growthTarget(amounts, []float64{5, 6, 7}).Met)
	assert.Check(t, !growthTarget(amounts, []float64{5, 6, 700}).Met)
	assert.Check(t, !growthTarget(amounts, []float64{5, 0, 7}).Met)
}

// Each rung of a ladder asks for as much as it says.
func TestLadders(t *testing.T) {
	for _, n := range []int{10, 89, 1000, 5_000_000} {
		p, params := sourceTask(n)
		assert.Equal(t, len(*params.Code), n)
		assert.Check(t, strings.HasPrefix(*params.Code, p.code[:9]))
	}
	p, params := stdinTask(70_000)
	assert.Equal(t, len(*params.Stdin), 70_000)
	assert.Equal(t, p.want, "70000\n")
	p, _ = outputTask(kib)
	assert.Equal(t, len(p.want), kib)
	for n, want := range map[int]string{0: "0 B", 10: "10 B", 1000: "1 kB", 64 * kib: "64 KiB", 16 * mib: "16 MiB", 5_000_000: "5 MB"} {
		assert.Equal(t, amountName(n, "B"), want)
	}
}

func TestJudge(t *testing.T) {
	var good task
	good.Expect.StdoutContains, good.Expect.MustNotContain = "OK", "Traceback"
	assert.NilError(t, good.judge(rpc.Result{Stdout: "OK\n"}))
	var bad task
	bad.Expect.ExitCode, bad.Expect.StderrContains = 1, "AssertionError"
	assert.NilError(t, bad.judge(rpc.Result{ExitCode: 1, Stderr: "AssertionError"}))
	for _, c := range []struct {
		task
		rpc.Result
	}{
		{good, rpc.Result{Stdout: "OK", ExitCode: 1}},
		{good, rpc.Result{Stdout: "no"}},
		{good, rpc.Result{Stdout: "OK", Stderr: "Traceback"}},
		{bad, rpc.Result{ExitCode: 1}},
		{bad, rpc.Result{}},
	} {
		assert.Check(t, c.judge(c.Result) != nil, "%+v", c.Result)
	}
}

func TestIdle(t *testing.T) {
	full := rpc.Pool{Want: 2, Ready: 2}
	assert.Check(t, idle(rpc.Status{Pools: []rpc.Pool{full}}))
	assert.Check(t, !idle(rpc.Status{Pools: []rpc.Pool{full, {Want: 2, Ready: 1}}}))
	assert.Check(t, !idle(rpc.Status{Pools: []rpc.Pool{{Starting: 1}}}))
	assert.Check(t, !idle(rpc.Status{Running: 1}))
	assert.Check(t, !idle(rpc.Status{Queued: 1}))
}

func TestProcessCPU(t *testing.T) {
	used, err := parseProcessCPU("42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 900 900 20 0 9 0 100 0 0")
	assert.NilError(t, err)
	assert.Equal(t, used, 120*time.Millisecond)
	_, err = parseProcessCPU("42 (a) S 1")
	assert.ErrorContains(t, err, "unexpected")
	_, err = processCPU(os.Getpid())
	assert.NilError(t, err)
	rss, err := processRSS(os.Getpid())
	assert.NilError(t, err)
	assert.Check(t, rss > 1<<20)
}

// Version 1 and version 2 have the same figures in different files.
func TestControlGroups(t *testing.T) {
	put := func(dir, name, content string) {
		file := filepath.Join(dir, name)
		assert.NilError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		assert.NilError(t, os.WriteFile(file, []byte(content), 0o644))
	}
	cpu1, memory1, v2 := t.TempDir(), t.TempDir(), t.TempDir()
	put(cpu1, "cpuacct.usage", "1500000\n")
	put(memory1, "sb-a/memory.usage_in_bytes", "4096\n")
	put(memory1, "sb-b/memory.usage_in_bytes", "8192\n")
	put(v2, "cpu.stat", "usage_usec 1500\nuser_usec 1\n")
	put(v2, "sb-a/memory.current", "4096\n")
	for _, c := range []struct {
		dirs []string
		held []int64
	}{{[]string{memory1, cpu1}, []int64{4096, 8192}}, {[]string{v2}, []int64{4096}}} {
		used, err := groupCPU(c.dirs)
		assert.NilError(t, err)
		assert.Equal(t, used, 1500*time.Microsecond)
		held, err := sandboxMemory(c.dirs)
		assert.NilError(t, err)
		assert.DeepEqual(t, held, c.held)
	}
	_, err := groupCPU([]string{t.TempDir()})
	assert.ErrorContains(t, err, "no processor time")
	_, err = sandboxMemory(nil)
	assert.ErrorContains(t, err, "no sandbox")
}
