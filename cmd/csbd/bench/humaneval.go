package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

const sectionHumanEval = "HumanEval, end to end"

// A task is a program of the corpus and what has to come of it.
type task struct {
	ID     string
	Code   string
	Expect struct {
		ExitCode       int    `json:"exit_code"`
		StdoutContains string `json:"stdout_contains"`
		StderrContains string `json:"stderr_contains"`
		MustNotContain string `json:"must_not_contain"`
	}
}

// humanEvalClients ask at the same time.
const humanEvalClients = 4

// humanEval runs the whole corpus through the socket and compares each verdict.
func (b *bench) humanEval(ctx context.Context) error {
	tasks, err := readCorpus(b.corpus)
	if errors.Is(err, fs.ErrNotExist) {
		b.add(Row{Section: sectionHumanEval, Name: "csbd", NotRun: "there is no corpus (--corpus)"})
		return nil
	}
	if err != nil {
		return err
	}
	all := len(tasks)
	if b.programs > 0 {
		tasks = tasks[:min(b.programs, all)]
	}
	for _, launcher := range b.variants() {
		d, err := b.daemon(ctx, kindPandas, launcher)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s pandas image, %d of %d programs, clients: %d", label(launcher), len(tasks), all, humanEvalClients)
		if err := b.judgeAll(ctx, d, name, tasks); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) judgeAll(ctx context.Context, d *daemon, name string, tasks []task) error {
	if err := b.settle(ctx); err != nil {
		return err
	}
	b.say("%s", name)
	before, _, err := d.used()
	if err != nil {
		return err
	}
	var t tally
	start := time.Now()
	failures, err := crowd(ctx, d, humanEvalClients, len(tasks), func(ctx context.Context, c *rpc.Client, i int) (sample, error) {
		began := time.Now()
		result, err := c.Execute(ctx, rpc.ExecuteParams{Code: &tasks[i].Code})
		s := sample{wall: time.Since(began)}
		if err == nil {
			err = tasks[i].judge(result)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", tasks[i].ID, err)
		}
		return s, err
	}, &t)
	elapsed := time.Since(start)
	if err != nil {
		return err
	}
	for _, f := range failures {
		b.wrong(name, f)
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	after, _, err := d.used()
	if err != nil {
		return err
	}
	r := Row{Section: sectionHumanEval, Name: name}
	t.fill(&r)
	r.Rate = float64(len(tasks)) / elapsed.Seconds()
	r.CPU = milliseconds(after-before) / float64(len(tasks))
	b.add(r)
	return nil
}

// judge says what is wrong with a result.
func (t task) judge(r rpc.Result) error {
	e := t.Expect
	switch {
	case r.ExitCode != e.ExitCode:
		return fmt.Errorf("exit code %d, want %d (status %s, stderr %.300q)", r.ExitCode, e.ExitCode, r.Status, r.Stderr)
	case !strings.Contains(r.Stdout, e.StdoutContains):
		return fmt.Errorf("stdout lacks %q", e.StdoutContains)
	case !strings.Contains(r.Stderr, e.StderrContains):
		return fmt.Errorf("stderr lacks %q", e.StderrContains)
	case e.MustNotContain != "" && strings.Contains(r.Stdout+r.Stderr, e.MustNotContain):
		return fmt.Errorf("output holds %q", e.MustNotContain)
	}
	return nil
}

// readCorpus reads one task a line.
func readCorpus(file string) ([]task, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var tasks []task
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var t task
		if err := json.Unmarshal(lines.Bytes(), &t); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, len(tasks)+1, err)
		}
		tasks = append(tasks, t)
	}
	if len(tasks) == 0 && lines.Err() == nil {
		return nil, fmt.Errorf("%s: no programs", file)
	}
	return tasks, lines.Err()
}
