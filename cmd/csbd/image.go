package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/fcarli/codesandbox/images"
)

// image is `csbd image …`: it works on the store without a running csbd, which
// notices by itself.
func image(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, err := readConfig()
	if err != nil {
		return err
	}
	store := c.images()
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	switch {
	case verb == "build" && len(args) == 1:
		if os.Geteuid() != 0 {
			return fmt.Errorf("building an image needs root. With newuidmap (package uidmap) and a range in /etc/subuid, root of a namespace is enough: "+
				"CSBD_IMAGE_DIR=%s unshare --map-root-user --map-auto --mount csbd image build %s", filepath.Join(c.StateDir, "images"), args[0])
		}
		project, err := images.ReadProject(args[0])
		if err != nil {
			return err
		}
		_, err = store.Build(ctx, project, stderr)
		return err
	case verb == "list" && len(args) == 0:
		list, err := store.List()
		tabs := tabwriter.NewWriter(stdout, 2, 8, 2, ' ', 0)
		fmt.Fprintln(tabs, "NAME\tDIGEST\tSIZE\tPYTHON\tCREATED")
		for _, i := range list {
			fmt.Fprintf(tabs, "%s\t%.19s\t%d MiB\t%s\t%s\n", i.Name, i.Digest, i.Size>>20, i.Python, i.Created.Format("2006-01-02 15:04"))
		}
		tabs.Flush()
		return err
	case verb == "remove" && len(args) == 1:
		return store.Remove(args[0])
	}
	return usageError("image wants: build DIR, list, or remove NAME")
}
