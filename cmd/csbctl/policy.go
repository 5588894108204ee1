package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

// policy is `csbctl policy show` and `csbctl policy check FILE`.
func (o *options) policy(ctx context.Context, args []string, s streams) (int, error) {
	args, err := o.arguments("policy", args, nil)
	switch {
	case err != nil:
		return 0, err
	case len(args) == 1 && args[0] == "show":
		raw, profile, err := ask[rpc.Profile](ctx, o, rpc.MethodPolicyShow, nil)
		if err != nil {
			return 0, err
		}
		return exitOK, o.print(s.out, raw, profilePage(profile))
	case len(args) == 2 && args[0] == "check":
		return o.checkPolicy(ctx, args[1], s)
	}
	return 0, usageError("policy wants: show, or check FILE")
}

// profilePage is a profile for people.
func profilePage(p rpc.Profile) string {
	var b strings.Builder
	tabs := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tabs, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("profile", "%s, by %s", p.Name, p.Rule)
	row("images", "%s", list(p.Images))
	row("environment", "%s", list(p.Environment))
	row("network", "%s", p.Network)
	row("seccomp", "%s", p.Seccomp)
	row("executions", "%d at a time, %d waiting, %s", p.Concurrency, p.Queue, p.Rate)
	row("request", "code %s, stdin %s, files %s", size(p.Request.Code), size(p.Request.Stdin), size(p.Request.Files))
	row("output beyond", "%s", p.OutputExceeded)
	if len(p.Unenforced) > 0 {
		row("not enforced", "%s", list(p.Unenforced))
	}
	tabs.Flush()
	b.WriteByte('\n')
	fmt.Fprintln(tabs, "LIMIT\tDEFAULT\tAT MOST")
	limit := func(name string, def, most any) { fmt.Fprintf(tabs, "%s\t%v\t%v\n", name, def, most) }
	d, m := p.Default, p.Max
	limit("timeout", seconds(d.Timeout, time.Millisecond), seconds(m.Timeout, time.Millisecond))
	limit("cpu-time", seconds(d.CPUTime, time.Millisecond), seconds(m.CPUTime, time.Millisecond))
	limit("memory", size(d.Memory), size(m.Memory))
	limit("disk", size(d.Disk), size(m.Disk))
	limit("output", size(d.Output), size(m.Output))
	limit("processes", d.Processes, m.Processes)
	limit("open-files", d.OpenFiles, m.OpenFiles)
	limit("processors", d.CPUs, m.CPUs)
	tabs.Flush()
	return b.String()
}

func (o *options) checkPolicy(ctx context.Context, file string, s streams) (int, error) {
	data, err := readFile(file)
	if err != nil {
		return 0, err
	}
	raw, answer, err := ask[rpc.PolicyCheck](ctx, o, rpc.MethodPolicyCheck, rpc.PolicyCheckParams{Policy: string(data), Name: file})
	if err != nil {
		return 0, err
	}
	code, page := exitOK, file+": ok\n"
	if !answer.Valid {
		code, page = exitNo, ""
	}
	if !o.json {
		for _, w := range answer.Warnings {
			fmt.Fprintf(s.err, "warning: %s\n", w)
		}
		for _, e := range answer.Errors {
			fmt.Fprintln(s.err, e)
		}
	}
	return code, o.print(s.out, raw, page)
}
