package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/fcarli/codesandbox/rpc"
)

// ask prints what csbd answers to a method without parameters.
func (o *options) ask(ctx context.Context, verb string, s streams) (int, error) {
	method := map[string]string{
		"status":  rpc.MethodStatus,
		"version": rpc.MethodVersion,
		"images":  rpc.MethodImagesList,
	}[verb]
	answer, err := o.call(ctx, method, nil)
	if verb != "version" {
		if err != nil {
			return 0, err
		}
		return exitOK, printJSON(s.out, answer)
	}
	// csbctl's own version is known even when csbd's is not.
	type own struct {
		Version  string `json:"version"`
		Protocol int    `json:"protocol"`
		Go       string `json:"go"`
	}
	both, encodeErr := json.Marshal(struct {
		Csbctl own             `json:"csbctl"`
		Csbd   json.RawMessage `json:"csbd,omitempty"`
	}{own{version, rpc.ProtocolVersion, runtime.Version()}, answer})
	if encodeErr != nil {
		return 0, encodeErr
	}
	if printErr := printJSON(s.out, both); printErr != nil {
		return 0, printErr
	}
	return exitOK, err
}

// call calls one method on a connection of its own.
func (o *options) call(ctx context.Context, method string, params any) (json.RawMessage, error) {
	var answer json.RawMessage
	err := o.dialled(ctx, func(c *rpc.Client) error { return c.Call(ctx, method, params, &answer) })
	return answer, err
}

// policy is `csbctl policy show` and `csbctl policy check FILE`.
func (o *options) policy(ctx context.Context, args []string, s streams) (int, error) {
	switch {
	case len(args) == 1 && args[0] == "show":
		answer, err := o.call(ctx, rpc.MethodPolicyShow, nil)
		if err != nil {
			return 0, err
		}
		return exitOK, printJSON(s.out, answer)
	case len(args) == 2 && args[0] == "check":
		return o.checkPolicy(ctx, args[1], s)
	}
	return 0, usageError("policy wants: show, or check FILE")
}

func (o *options) checkPolicy(ctx context.Context, file string, s streams) (int, error) {
	data, err := readFile(file)
	if err != nil {
		return 0, err
	}
	raw, err := o.call(ctx, rpc.MethodPolicyCheck, rpc.PolicyCheckParams{Policy: string(data), Name: file})
	if err != nil {
		return 0, err
	}
	var answer rpc.PolicyCheck
	if err := json.Unmarshal(raw, &answer); err != nil {
		return 0, fmt.Errorf("read the answer: %w", err)
	}
	for _, w := range answer.Warnings {
		fmt.Fprintf(s.err, "warning: %s\n", w)
	}
	for _, e := range answer.Errors {
		fmt.Fprintln(s.err, e)
	}
	if !answer.Valid {
		return 1, nil
	}
	fmt.Fprintf(s.out, "%s: ok\n", file)
	return exitOK, nil
}
