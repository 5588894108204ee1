package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fcarli/codesandbox/images"
)

// Names of the images in the store that the daemons are given.
const (
	imagePython = "python"
	imageBare   = "bare"
)

// linkImages makes a store of two images in dir: the default image of the
// store in source, and the same root filesystem with nothing preloaded. Neither
// is copied, and source is only read.
func linkImages(source, dir string) (images.Store, images.Image, error) {
	store := images.Store{Dir: dir}
	source, err := filepath.Abs(source)
	if err != nil {
		return store, images.Image{}, err
	}
	python, err := images.Store{Dir: source}.Resolve(imagePython)
	if err != nil {
		return store, images.Image{}, fmt.Errorf("%w; `make image` builds it", err)
	}
	names := filepath.Join(dir, "names")
	if err := os.MkdirAll(names, 0o755); err != nil {
		return store, python, err
	}
	home := filepath.Dir(python.Path)
	if err := os.Symlink(home, filepath.Join(names, imagePython)); err != nil {
		return store, python, err
	}
	bare := python
	// With a warm-up, as an administrator would give one to what is kept ready.
	bare.Name, bare.Preload, bare.Warmup = imageBare, nil, "print(1)\n"
	data, err := json.Marshal(bare)
	if err != nil {
		return store, python, err
	}
	own := filepath.Join(dir, filepath.Base(home))
	if err := os.Mkdir(own, 0o755); err != nil {
		return store, python, err
	}
	if err := os.WriteFile(filepath.Join(own, "image.json"), data, 0o644); err != nil {
		return store, python, err
	}
	if err := os.Symlink(python.Path, filepath.Join(own, filepath.Base(python.Path))); err != nil {
		return store, python, err
	}
	return store, python, os.Symlink(filepath.Join("..", filepath.Base(own)), filepath.Join(names, imageBare))
}
