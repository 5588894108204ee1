package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/fcarli/codesandbox/rpc"
)

// exitNo is the exit status of a question whose answer is no: csbd is not
// ready, a check failed, a policy is wrong.
const exitNo = 1

// arguments reads the flags of a verb, which may stand before, between and
// after its other arguments, and returns those. own adds flags to those that
// every verb has.
func (o *options) arguments(verb string, args []string, own func(*flag.FlagSet)) ([]string, error) {
	f := flag.NewFlagSet(verb, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.socket, "socket", o.socket, "`path` of csbd's socket")
	f.BoolVar(&o.json, "json", o.json, "print what csbd answers, as JSON")
	if own != nil {
		own(f)
	}
	var rest []string
	for len(args) > 0 {
		err := f.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			return nil, &helpRequest{verb, f}
		}
		if err != nil {
			return nil, usageError(fmt.Sprintf("%s: %v", verb, err))
		}
		if args = f.Args(); len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	return rest, nil
}

// noArguments is arguments for a verb that has none but flags.
func (o *options) noArguments(verb string, args []string, own func(*flag.FlagSet)) error {
	rest, err := o.arguments(verb, args, own)
	if err == nil && len(rest) > 0 {
		err = usageError(fmt.Sprintf("%s takes no argument %q", verb, rest[0]))
	}
	return err
}

// A helpRequest is --help behind a verb.
type helpRequest struct {
	verb  string
	flags *flag.FlagSet
}

func (h *helpRequest) Error() string { return "help for " + h.verb }

func (h *helpRequest) print(w io.Writer) {
	fmt.Fprintf(w, "csbctl %s [FLAGS]; `man csbctl` says more.\n\n", h.verb)
	h.flags.SetOutput(w)
	h.flags.PrintDefaults()
}

// ask calls a method on a connection of its own. It returns the answer as csbd
// wrote it, and as far as this csbctl knows its members.
func ask[T any](ctx context.Context, o *options, method string, params any) (raw json.RawMessage, answer T, err error) {
	if err := o.dialled(ctx, func(c *rpc.Client) error { return c.Call(ctx, method, params, &raw) }); err != nil {
		return nil, answer, err
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, answer, fmt.Errorf("read the answer: %w", err)
	}
	return raw, answer, nil
}

// print prints an answer: as csbd wrote it with --json, else as a page for
// people.
func (o *options) print(w io.Writer, raw json.RawMessage, page string) error {
	if o.json {
		return printJSON(w, raw)
	}
	_, err := io.WriteString(w, page)
	return err
}
