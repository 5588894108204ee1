package main

import (
	"context"
	"fmt"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

// A program is Python and what it has to print.
type program struct{ code, want string }

var (
	printOne = program{"print(1)", "1\n"}
	frame    = program{`import pandas as pd; print(pd.DataFrame({"a": range(100)}).a.sum())`, "4950\n"}
)

// A sample is what one answer took. CPU is 0 where it is not known.
type sample struct{ wall, cpu time.Duration }

// check compares what a program printed with what it should have.
func (p program) check(stdout string) error {
	if stdout != p.want {
		return fmt.Errorf("printed %.100q, want %.100q", stdout, p.want)
	}
	return nil
}

// execute runs the program by way of csbd, from request to answer.
func (p program) execute(ctx context.Context, c *rpc.Client) (sample, rpc.Result, error) {
	return p.executeWith(ctx, c, rpc.ExecuteParams{Code: &p.code})
}

func (p program) executeWith(ctx context.Context, c *rpc.Client, params rpc.ExecuteParams) (sample, rpc.Result, error) {
	start := time.Now()
	r, err := c.Execute(ctx, params)
	s := sample{wall: time.Since(start)}
	if err == nil && r.Status != "ok" {
		err = fmt.Errorf("status %s, stderr %.300q", r.Status, r.Stderr)
	}
	if err == nil && (r.Truncated != nil || r.StdoutBase64 != "") {
		err = fmt.Errorf("output is not whole")
	}
	if err == nil {
		err = p.check(r.Stdout)
	}
	return s, r, err
}

// wantWarm says whether the sandbox came from where it should have.
func wantWarm(r rpc.Result, warm bool) error {
	if r.Usage.Warm != warm {
		return fmt.Errorf("warm is %t, want %t: the sample is of something else", r.Usage.Warm, warm)
	}
	return nil
}
