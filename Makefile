# CodeSandbox. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export CGO_ENABLED ?= 0
VERSION := $(shell packaging/version.sh 2>/dev/null || echo devel)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null)
GVISOR  := $(shell go list -m -f '{{.Version}}' gvisor.dev/gvisor 2>/dev/null)

# Where `make serve`, `make demo` and the tests keep what they make.
RUN := $(CURDIR)/run
export CSBD_IMAGE_DIR ?= $(RUN)/images

GO_SOURCES := $(shell git ls-files -co --exclude-standard '*.go' '*.py' go.mod go.sum 2>/dev/null)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

.PHONY: build
build: bin/csbd bin/csbctl bin/csbd-sentry bin/runsc ## build csbd, its sentry, csbctl and the pinned runsc into bin/

# Changes when what the programs say of themselves does.
bin/.version: FORCE
	@mkdir -p bin; echo '$(VERSION) $(COMMIT)' | cmp -s - $@ || echo '$(VERSION) $(COMMIT)' >$@
FORCE:

bin/csbd bin/csbctl &: $(GO_SOURCES) bin/.version
	@echo "== building csbd and csbctl"
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)' -o bin/csbd ./cmd/csbd
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)' -o bin/csbctl ./cmd/csbctl

# gVisor as its own release build has it: its module, with the seccomp filters
# compiled. Everything else in it is untouched.
build/gvisor.mod: go.mod go.sum cmd/csbd/sentry/precompile/main.go
	@echo "== compiling gVisor's seccomp filters (about a minute)"
	rm -rf build && mkdir build
	cp -r "$$(go list -m -f '{{.Dir}}' gvisor.dev/gvisor)" build/gvisor
	chmod -R u+w build
	go run ./cmd/csbd/sentry/precompile > build/filter.go
	mv build/filter.go build/gvisor/runsc/boot/filter/filter_precompiled.go
	cp go.sum build/gvisor.sum
	cp go.mod build/unused.mod
	go mod edit -replace gvisor.dev/gvisor=./build/gvisor build/unused.mod
	mv build/unused.mod $@

bin/csbd-sentry: build/gvisor.mod $(GO_SOURCES)
	@echo "== building csbd-sentry with gVisor $(GVISOR) (about two minutes the first time)"
	CGO_ENABLED=0 go build -modfile=build/gvisor.mod -trimpath -ldflags '-s -w -X gvisor.dev/gvisor/runsc/version.version=$(GVISOR)' -o bin/csbd-sentry ./cmd/csbd/sentry

# Static: a dynamically linked runsc cannot execute itself in its own chroot.
bin/runsc: build/gvisor.mod
	@echo "== building runsc $(GVISOR)"
	CGO_ENABLED=0 go build -modfile=build/gvisor.mod -trimpath -ldflags '-s -w -X gvisor.dev/gvisor/runsc/version.version=$(GVISOR)' -o bin/runsc gvisor.dev/gvisor/runsc

# package:command (or file), for what is not Go.
TOOLS := mmdebstrap:mmdebstrap erofs-utils:mkfs.erofs
# The race detector needs a C compiler.
TEST_TOOLS := $(TOOLS) socat:socat python3:/usr/bin/python3 gcc:gcc libc6-dev:/usr/include/stdio.h systemd:systemd-socket-activate \
	docker.io:dockerd zsh:zsh fish:fish man-db:man groff-base:groff mandoc:mandoc \
	lintian:lintian rpm:rpm cpio:cpio systemd-container:systemd-nspawn

define install
	@missing=(); for t in $(1); do command -v "$${t#*:}" >/dev/null || [[ -e $${t#*:} ]] || missing+=("$${t%%:*}"); done; \
	if (( $${#missing[@]} )); then \
		echo "== installing $${missing[*]} with apt"; \
		apt-get update -q; DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$${missing[@]}"; \
	fi
endef

.PHONY: deps
deps:
	$(call install,$(TOOLS))

.PHONY: test-deps
test-deps:
	$(call install,$(TEST_TOOLS))

.PHONY: image
image: deps bin/csbd ## build the default image, unless it is up to date
	bin/csbd image build images/python

.PHONY: demo
demo: build image ## run the examples of the README through a csbd of its own
	@packaging/demo.sh

.PHONY: serve
serve: build image ## run csbd in the foreground with the sample policy
	@mkdir -p $(RUN)
	CSBD_SOCKET=$${CSBD_SOCKET:-$(RUN)/csbd.sock} CSBD_STATE_DIR=$${CSBD_STATE_DIR:-$(RUN)/state} \
	CSBD_POLICY=$${CSBD_POLICY:-packaging/policy.yaml} CSBD_CGROUP=$${CSBD_CGROUP:-/csbd-serve} bin/csbd

# An Engine of one's own builds it; the tree is in dist/container either way.
.PHONY: container
container: build image ## build the container image csbd:latest with docker (docs/sidecar.md)
	packaging/container/context.sh bin $(CSBD_IMAGE_DIR) dist/container
	docker build --tag csbd:latest --tag csbd:$(VERSION) dist/container

.PHONY: test
test: build test-deps image packages ## run every test, those with real sandboxes included
	@echo "== tests (race detector on; about six minutes)"
	CGO_ENABLED=1 go test -race -timeout 20m ./...
	@$(MAKE) --no-print-directory fuzz FUZZTIME=5000x

.PHONY: test-vm
test-vm: packages ## boot Debian 12 with cgroup version 2 in QEMU, with the packages (some fifteen minutes)
	$(call install,$(TOOLS) qemu-system-x86:qemu-system-x86_64)
	go run ./packaging/boot/testvm

.PHONY: test-hostile
test-hostile: build test-deps image ## run all hostile programs against real sandboxes (a few minutes)
	CSB_HOSTILE=all go test -count 1 -timeout 15m ./rpc/server/hostile

.PHONY: bench
bench: build image ## measure everything in one run, some ten minutes; BENCH=--quick for one
	-$(call install,bubblewrap:bwrap)
	@go build -o bin/bench ./cmd/csbd/bench
	@bin/bench $(BENCH)

SOAK ?= 2000
.PHONY: soak
soak: build image ## mixed load with hard deaths, SOAK executions (2000), some ten minutes
	@go build -o bin/soak ./cmd/csbd/soak
	@bin/soak -n $(SOAK) -timeout $(or $(SOAK_TIMEOUT),30m)

# nfpm has requirements of its own, which are none of csbd's.
bin/nfpm: packaging/nfpm.mod packaging/nfpm.sum
	go build -modfile=packaging/nfpm.mod -trimpath -o $@ github.com/goreleaser/nfpm/v2/cmd/nfpm

FORMATS := deb rpm
# Their date is the commit's, so that the same commit gives the same bytes.
packages: export PACKAGE_VERSION = $(VERSION)
packages: export SOURCE_DATE_EPOCH = $(shell git log -1 --format=%ct)
packages: export RUNNER = $(shell sha256sum isolation/runner/runner.py | cut -c1-12)
.PHONY: packages
packages: build image bin/nfpm ## build .deb and .rpm into dist/
	rm -rf dist && mkdir dist
	packaging/stage.sh
	for format in $(FORMATS); do \
		bin/nfpm package -f packaging/nfpm.yaml -p $$format -t dist/; \
		bin/nfpm package -f packaging/nfpm-image.yaml -p $$format -t dist/; \
	done
	rm -rf dist/stage

# Everything is compiled anew in a clone: another path, no cache, no file that
# is not in git. Only the image is shared: it is Debian's of its day.
.PHONY: packages-reproducible
packages-reproducible: packages ## build the packages once more, elsewhere, and compare (some six minutes)
	@[[ $(VERSION) != *.dirty ]] || { echo "there are changes that are not committed"; exit 1; }
	@dir=$$(mktemp -d); trap 'chmod -R u+w "$$dir"; rm -rf "$$dir"' EXIT; \
	git clone -q . "$$dir/somewhere-else"; \
	GOCACHE="$$dir/cache" CSBD_IMAGE_DIR='$(CSBD_IMAGE_DIR)' $(MAKE) -C "$$dir/somewhere-else" packages; \
	for f in bin/csbd bin/csbctl bin/csbd-sentry bin/runsc dist/*; do \
		cmp "$$f" "$$dir/somewhere-else/$$f"; sha256sum "$$f"; \
	done

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); if [[ -n $$out ]]; then echo "gofmt would change:" $$out; exit 1; fi
	go vet ./...
	go tool staticcheck ./...

# package:fuzzer
FUZZERS := isolation/runner:FuzzScanner policy:FuzzPolicy rpc/server:FuzzEnvelope rpc/server:FuzzExecute rpc/server:FuzzOutput images:FuzzProject images:FuzzStore
FUZZTIME ?= 20s
.PHONY: fuzz
fuzz: ## fuzz the parsers, FUZZTIME each
	@for f in $(FUZZERS); do \
		go test -run '^$$' -fuzz "^$${f#*:}$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x ./"$${f%%:*}"; \
	done

.PHONY: clean
clean: ## remove what was built, images excepted
	rm -rf bin dist run/state run/csbd.sock
