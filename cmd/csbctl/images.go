package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/fcarli/codesandbox/rpc"
)

// images is `csbctl images`.
func (o *options) images(ctx context.Context, args []string, s streams) (int, error) {
	if err := o.noArguments("images", args, nil); err != nil {
		return 0, err
	}
	raw, answer, err := ask[rpc.ImageList](ctx, o, rpc.MethodImagesList, nil)
	if err != nil {
		return 0, err
	}
	return exitOK, o.print(s.out, raw, imagesPage(answer.Images))
}

// imagesPage is a table of images; the default one is marked. Below it is what
// is installed in each.
func imagesPage(images []rpc.Image) string {
	var b strings.Builder
	tabs := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tabs, "NAME\tPYTHON\tBASE\tSIZE\tCREATED\tPRELOADED\tDIGEST\tDEFAULT")
	for _, i := range images {
		def := ""
		if i.Default {
			def = "yes"
		}
		fmt.Fprintf(tabs, "%s\t%s\t%s\t%s\t%s\t%s\t%.19s\t%s\n", i.Name, i.Python, i.Base, size(i.Size), i.Created, list(i.Preload), i.Digest, def)
	}
	tabs.Flush()
	for _, i := range images {
		var packages []string
		for _, name := range slices.Sorted(maps.Keys(i.Packages)) {
			packages = append(packages, name+" "+i.Packages[name])
		}
		fmt.Fprintf(&b, "\n%s has %s\n", i.Name, list(packages))
	}
	return b.String()
}
