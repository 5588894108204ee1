package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

// answerTime is how long csbd may take to say what it is doing, which it does at
// once unless it is stopped or stuck.
const answerTime = 10 * time.Second

// status is `csbctl status`: exit status 1 says that csbd is not ready.
func (o *options) status(ctx context.Context, args []string, s streams) (int, error) {
	if err := o.noArguments("status", args, nil); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	raw, status, err := ask[rpc.Status](ctx, o, rpc.MethodStatus, nil)
	if err != nil {
		return 0, err
	}
	if err := o.print(s.out, raw, statusPage(status)); err != nil {
		return 0, err
	}
	if !status.Ready {
		return exitNo, nil
	}
	return exitOK, nil
}

// statusPage is a status for people: the most important comes first.
func statusPage(s rpc.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", readiness(s))
	tabs := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tabs, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("version", "%s, runsc %s", s.Version.Version, s.Version.Runtime)
	row("uptime", "%s", seconds(s.Uptime, time.Second))
	row("policy", "generation %d", s.PolicyGeneration)
	row("now", "running %d, queued %d, connections %d", s.Running, s.Queued, s.Connections)
	row("executions", "%s", tally(s.Executions))
	row("refused", "%s", tally(s.Refused))
	if s.Audit != nil {
		row("audit", "%d lines written, %d lost", s.Audit.Written, s.Audit.Lost)
	}
	c := s.Caller
	row("you", "%s", callerName(c))
	row("yours", "running %d, queued %d%s", c.Running, c.Queued, idList(c.Executions))
	tabs.Flush()
	b.WriteByte('\n')
	if len(s.Pools) == 0 {
		b.WriteString("no pools: every sandbox is started when it is asked for\n")
		return b.String()
	}
	fmt.Fprintln(tabs, "IMAGE\tPROFILE\tREADY\tWANT\tMAX\tSTARTING\tHITS\tMISSES\tHIT RATE\tREFILL\tOLDEST\tMEMORY\tSNAPSHOT")
	for _, p := range s.Pools {
		fmt.Fprintf(tabs, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", p.Image, p.Profile, p.Ready, p.Want, p.Max, p.Starting,
			p.Hits, p.Misses, hitRate(float64(p.Hits), float64(p.Misses)), seconds(p.RefillTime, time.Millisecond), seconds(p.Age, time.Second), size(p.Memory), snapshot(p))
	}
	tabs.Flush()
	for _, p := range s.Pools {
		if p.Failed > 0 || p.Died > 0 || p.Problem != "" {
			fmt.Fprintf(&b, "%s/%s: %d of %d starts failed, %d died while they waited", p.Image, p.Profile, p.Failed, p.Launched+p.Failed, p.Died)
			if p.Problem != "" {
				fmt.Fprintf(&b, "; %s", p.Problem)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// readiness is what everybody wants to know first.
func readiness(s rpc.Status) string {
	if s.Ready {
		return "csbd is ready"
	}
	return "csbd is NOT READY: " + s.Problem
}

// tally is counts by name as "14: 12 ok, 2 timeout", the most frequent first.
func tally(counts map[string]int64) string {
	if len(counts) == 0 {
		return "none"
	}
	var total int64
	var parts []string
	for _, name := range byCount(counts) {
		total += counts[name]
		parts = append(parts, fmt.Sprintf("%d %s", counts[name], name))
	}
	return fmt.Sprintf("%d: %s", total, strings.Join(parts, ", "))
}

// byCount are the names, the most frequent first.
func byCount(counts map[string]int64) []string {
	return slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
}

// callerName is who csbd takes us for, with the names that the host has.
func callerName(c rpc.Caller) string {
	text := fmt.Sprintf("uid %d", c.UID)
	if u, err := user.LookupId(strconv.FormatUint(uint64(c.UID), 10)); err == nil {
		text += " (" + u.Username + ")"
	}
	var groups []string
	for _, id := range c.Groups {
		name := strconv.FormatUint(uint64(id), 10)
		if g, err := user.LookupGroupId(name); err == nil {
			name += " (" + g.Name + ")"
		}
		groups = append(groups, name)
	}
	return text + ", groups " + list(groups)
}

func idList(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return ": " + strings.Join(ids, " ")
}

// list is names, or "none".
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// hitRate is the share of requests that found a sandbox ready.
func hitRate(hits, misses float64) string {
	if hits+misses <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*hits/(hits+misses))
}

func snapshot(p rpc.Pool) string {
	if p.Snapshot == rpc.SnapshotNone || p.Snapshot == "" {
		return "none"
	}
	return fmt.Sprintf("%s, %s", p.Snapshot, seconds(p.SnapshotAge, time.Second))
}

// seconds is a number of seconds as "2h13m5s".
func seconds(n float64, precision time.Duration) string {
	return time.Duration(n * float64(time.Second)).Round(precision).String()
}

// size is a number of bytes as "115 MiB".
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return trim(float64(n)/(1<<10)) + " KiB"
	case n < 1<<30:
		return trim(float64(n)/(1<<20)) + " MiB"
	}
	return trim(float64(n)/(1<<30)) + " GiB"
}

// trim has one digit behind the point, unless it is a zero.
func trim(n float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0") }
