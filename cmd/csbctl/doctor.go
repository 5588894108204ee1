package main

import (
	"context"

	"github.com/fcarli/codesandbox/rpc"
)

// doctor is `csbctl doctor`: exit status 1 says that a check failed.
func (o *options) doctor(ctx context.Context, args []string, s streams) (int, error) {
	if err := o.noArguments("doctor", args, nil); err != nil {
		return 0, err
	}
	raw, report, err := ask[rpc.Doctor](ctx, o, rpc.MethodDoctor, nil)
	if err != nil {
		return 0, err
	}
	if err := o.print(s.out, raw, report.String()); err != nil {
		return 0, err
	}
	if !report.OK {
		return exitNo, nil
	}
	return exitOK, nil
}
