package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/fcarli/codesandbox/rpc"
)

// doctor is `csbctl doctor`: exit status 1 says that a check failed.
func (o *options) doctor(ctx context.Context, args []string, s streams) (int, error) {
	asJSON := len(args) == 1 && args[0] == "--json"
	if len(args) > 0 && !asJSON {
		return 0, usageError(fmt.Sprintf("doctor takes --json and nothing else, not %q", args[0]))
	}
	raw, err := o.call(ctx, rpc.MethodDoctor, nil)
	if err != nil {
		return 0, err
	}
	var report rpc.Doctor
	if err := json.Unmarshal(raw, &report); err != nil {
		return 0, fmt.Errorf("read the answer: %w", err)
	}
	if asJSON {
		err = printJSON(s.out, raw)
	} else {
		_, err = fmt.Fprint(s.out, report)
	}
	if err == nil && !report.OK {
		return 1, nil
	}
	return exitOK, err
}
