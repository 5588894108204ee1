package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/fcarli/codesandbox/rpc"
)

// A ladder is one kind of work in growing amounts.
type ladder struct {
	section string
	unit    string
	amounts []int
	// task returns the request for an amount, and what it has to print.
	task func(amount int) (program, rpc.ExecuteParams)
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// growthSlack is how much worse than linear a step may look on a noisy machine.
const growthSlack = 1.2

func ladders() []ladder {
	return []ladder{
		{"output", "B", []int{1, kib, 64 * kib, mib, 16 * mib}, outputTask},
		{"source, comments behind print(1)", "B", []int{10, 1000, 100_000, 1_000_000, 5_000_000}, sourceTask},
		{"stdin", "B", []int{0, 64 * kib, mib, 16 * mib}, stdinTask},
	}
}

// outputTask prints so many bytes.
func outputTask(n int) (program, rpc.ExecuteParams) {
	p := program{fmt.Sprintf(`import sys; sys.stdout.write("x" * %d)`, n), strings.Repeat("x", n)}
	return p, rpc.ExecuteParams{Code: &p.code}
}

// sourceTask is so many bytes long, nearly all of them comments, which Python
// has to read but does not keep.
func sourceTask(n int) (program, rpc.ExecuteParams) {
	p := program{padded(printOne.code+"\n", n), printOne.want}
	return p, rpc.ExecuteParams{Code: &p.code}
}

// padded is code with comments of 80 characters a line, n bytes in all.
func padded(code string, n int) string {
	line := "#" + strings.Repeat("x", 78) + "\n"
	missing := max(n-len(code), 0)
	code += strings.Repeat(line, missing/len(line))
	return code + strings.Repeat("#", missing%len(line))
}

// stdinTask reads so many bytes.
func stdinTask(n int) (program, rpc.ExecuteParams) {
	p := program{"import sys; print(len(sys.stdin.buffer.read()))", fmt.Sprintln(n)}
	stdin := strings.Repeat("x", n)
	return p, rpc.ExecuteParams{Code: &p.code, Stdin: &stdin}
}

// growth is how the cost of one warm execution grows with what it moves.
func (b *bench) growth(ctx context.Context) error {
	d, err := b.daemon(ctx, kindPandas, "")
	if err != nil {
		return err
	}
	var contenders []*contender
	for _, l := range ladders() {
		for _, amount := range l.amounts {
			contenders = append(contenders, &contender{section: l.section, name: amountName(amount, l.unit), run: l.run(d, amount)})
		}
	}
	if err := b.alternate(ctx, b.growthRounds, contenders); err != nil {
		return err
	}
	for _, l := range ladders() {
		own := rows(contenders, l.section)
		compare(own, own[0].Name, figureP50)
		costs := make([]float64, len(own))
		for i := range own {
			costs[i] = own[i].P50
		}
		own[len(own)-1].Targets = []Target{growthTarget(l.amounts, costs)}
		b.report.Rows = append(b.report.Rows, own...)
	}
	return nil
}

func (l ladder) run(d *daemon, amount int) func(context.Context) (sample, error) {
	p, params := l.task(amount)
	return func(ctx context.Context) (sample, error) {
		out, r, err := p.executeWith(ctx, d.client, params)
		if err == nil {
			err = wantWarm(r, true)
		}
		return out, err
	}
}

// growthTarget is that the cost grows as the amount does, or slower.
func growthTarget(amounts []int, costs []float64) Target {
	t := atMost(figureGrowth, growthSlack)
	t.judge(worstGrowth(amounts, costs))
	return t
}

// worstGrowth is the growth of the cost in relation to that of the amount, at
// the worst of the steps from one amount to the next: 1 is linear, less is
// better. Amounts of 0 are no step. It is 0 when a cost is missing.
func worstGrowth(amounts []int, costs []float64) float64 {
	worst := 0.0
	for i := 1; i < len(amounts); i++ {
		if costs[i] == 0 || costs[i-1] == 0 {
			return 0
		}
		if amounts[i-1] == 0 {
			continue
		}
		steeper := costs[i] / costs[i-1]
		more := float64(amounts[i]) / float64(amounts[i-1])
		worst = max(worst, steeper/more)
	}
	return worst
}

// amountName writes an amount as people do.
func amountName(n int, unit string) string {
	for _, u := range []struct {
		prefix string
		size   int
	}{{"Mi", mib}, {"M", 1_000_000}, {"Ki", kib}, {"k", 1000}} {
		if n >= u.size && n%u.size == 0 {
			return fmt.Sprintf("%d %s%s", n/u.size, u.prefix, unit)
		}
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", n, unit))
}
