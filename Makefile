# make build | demo | test | race | lint | vet | e2e | image | bench | bench-cache | differential | cache-interop | faults | pictures | ci | setup
# Works as root in a clean clone on a Debian machine with Go, gcc and apt;
# setup installs the rest.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c

export MAYFLY_DEV ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mayfly-dev
export PATH := $(MAYFLY_DEV)/bin:/usr/local/go/bin:$(PATH):/usr/sbin:/sbin
# make setup has installed every tool: a test that misses one fails.
export MAYFLY_REQUIRE_TOOLS := 1
# The binary that the end-to-end tests run.
export MAYFLY := $(CURDIR)/bin/mayfly
export CGO_ENABLED := 1

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
TAGS := seccomp netgo osusergo static_build
UNIT = $(shell go list ./... | grep -v '/mayfly/e2e$$')

.PHONY: build setup setup-packages setup-buildkit setup-services setup-browser setup-lint demo test unit race lint vet e2e image bench bench-cache differential cache-interop faults pictures ci clean

build: setup-packages
	go build -trimpath -tags "$(TAGS)" -ldflags '-s -w -X main.version=$(VERSION) -extldflags "-static"' -o bin/mayfly ./cmd/mayfly

setup:
	@hack/setup.sh

# What the targets below need; each does nothing where it was done.
setup-packages setup-buildkit setup-services setup-browser setup-lint:
	@hack/setup.sh $(@:setup-%=%)

demo: build
	@hack/demo.sh

test: unit e2e

unit: setup-buildkit setup-services
	@go test -tags seccomp $(UNIT)

# -count=1: the test cache does not see that the binary under test is new.
e2e: build setup-buildkit setup-services setup-browser
	go test -tags seccomp -count=1 -timeout 30m ./e2e

race: setup-buildkit setup-services
	@go test -race -tags seccomp $(filter-out %/bench %/e2e/services,$(UNIT))

vet: setup-packages
	go vet -tags seccomp ./...
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }

lint: setup-lint
	golangci-lint run --build-tags seccomp ./...

# Builds the image of image/Dockerfile by mayfly itself, for docker load:
#   make image IMAGE=registry.acme.test/mayfly:1 IMAGE_FLAGS=--push
IMAGE ?= mayfly:$(VERSION)
IMAGE_FLAGS ?= -o type=docker,dest=bin/image.tar
image: build
	bin/mayfly build --build-context bin=bin -t $(IMAGE) $(IMAGE_FLAGS) image

# Writes docs/bench.md; takes half an hour. BENCH="-runs 1 -workloads W1,W5" for less.
bench: build setup-buildkit
	@mkdir -p docs
	go run -tags seccomp ./bench $(BENCH) >docs/.bench.tmp && mv docs/.bench.tmp docs/bench.md
	cat docs/bench.md

# Writes docs/bench-cache.md: exports and imports of caches, with every service.
bench-cache: build setup-buildkit setup-services
	@mkdir -p docs
	go run -tags seccomp ./bench -caches $(BENCH) >docs/.bench.tmp && mv docs/.bench.tmp docs/bench-cache.md
	cat docs/bench-cache.md

# Writes docs/cache-interop.md, the table of TestCacheInterop.
cache-interop: build setup-buildkit setup-services
	@mkdir -p docs
	CACHE_INTEROP_TABLE=$(CURDIR)/docs/cache-interop.md go test -tags seccomp -count=1 -timeout 30m -run '^TestCacheInterop$$' ./e2e

# Writes docs/faults.md, the table of TestCacheFaults.
faults: build setup-buildkit setup-services
	@mkdir -p docs
	CACHE_FAULTS_TABLE=$(CURDIR)/docs/faults.md go test -tags seccomp -count=1 -timeout 30m -run '^TestCacheFaults$$' ./e2e

# Writes docs/pictures: reports and job summaries of builds, as a browser shows them.
pictures: build setup-services setup-browser
	@mkdir -p docs/pictures
	REPORT_PICTURES=$(CURDIR)/docs/pictures go test -tags seccomp -count=1 -run '^TestReportPictures$$' ./e2e

# Writes docs/differential.md, the table of TestDifferential.
differential: build setup-buildkit
	@mkdir -p docs
	DIFFERENTIAL_TABLE=$(CURDIR)/docs/differential.md go test -tags seccomp -count=1 -timeout 30m -run '^TestDifferential$$' ./e2e

ci: vet lint unit race e2e

clean:
	rm -rf bin
