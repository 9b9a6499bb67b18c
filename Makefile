# Cloister: build, test and check. `make help` lists what there is; docs/rationale.md has the why.
#
# Building and testing need Go and Python 3. `make check` also needs a C compiler (for the race
# detector) and git; it builds its tools from these pinned versions into bin/tools.
GOLANGCI_LINT_VERSION      := v2.15.0
GOVULNCHECK_VERSION        := v1.9.0
BUF_VERSION                := v1.75.0
PROTOC_GEN_GO_VERSION      := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
# The vulnerability database where the live one cannot be reached: move it forward with the tools.
VULNDB_VERSION             := v0.0.0-20261105234957-e22db6528018

# May be set: the interpreter of the Python tests, more flags for go test, the time of each fuzz target.
PYTHON    ?= python3
TESTFLAGS ?=
FUZZTIME  ?= 20s

# The same inputs give the same bytes on any machine, and every command shares one set of compiled
# packages: nothing of the caller's environment takes part in a build.
export GOFLAGS      := -trimpath -buildvcs=false
export GOAMD64      := v1
export GOARM64      := v8.0
export GOEXPERIMENT :=
export CGO_ENABLED  := 0

MAKEFLAGS += --no-builtin-rules
SHELL     := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

# --- build: the commands, the folder that a local enclave starts from, the ready-made policies ---

bin     := bin
image   := $(bin)/enclave
library := $(bin)/library
raw     := $(bin)/wasm

commands := $(bin)/cloister $(image)/cloisterd $(image)/walls $(image)/policy $(image)/executors/cloister-executor
examples := csv-groups-go
inrego   := csv-groups-rego
modules  := $(examples:%=$(raw)/%.wasm) $(inrego:%=$(raw)/%.wasm)

.PHONY: build
build: $(commands) $(modules) ## bin/cloister, bin/enclave, bin/library and bin/examples
	@rm -f $(filter-out $(modules),$(wildcard $(raw)/*.wasm))
	@go run ./deploy/local/assemble library policies/library $(library)
	@go run ./deploy/local/assemble library examples/policies $(bin)/examples $(raw)
	@go run ./deploy/local/assemble enclave deploy/local $(image) $(bin)/rehearsal

# What is measured carries nothing for debuggers: an image is in memory as a whole.
measured := -ldflags='-s -w'

# Go knows best what is out of date: these run every time, and do nothing slow if nothing changed.
.PHONY: force
$(bin)/cloister: force
	@go build -o $@ ./cmd/cloister
$(image)/cloisterd: force
	@go build $(measured) -o $@ ./cmd/cloisterd
$(image)/walls: force
	@go build $(measured) -o $@ ./cmd/cloister-walls
$(image)/policy: force
	@go build $(measured) -o $@ ./cmd/cloister-policy
$(image)/executors/cloister-executor: force
	@go build $(measured) -o $@ ./cmd/cloister-executor

# A module without a build id is linked anew by every `go build`, so that make decides instead.
guest := $(wildcard policies/abi/*.go policies/sdk/*.go) go.mod go.sum $(bin)/.go
$(raw)/%.wasm: examples/policies/%/policy.go $(guest)
	@mkdir -p $(@D)
	@echo "building $@"
	@GOOS=wasip1 GOARCH=wasm go build -ldflags='-s -w -buildid=' -o $@ ./examples/policies/$*
$(raw)/%.wasm: examples/policies/%/policy.rego examples/policies/%/manifest.json go.mod
	@echo "building $@"
	@go run ./deploy/local/assemble rego examples/policies/$* $@
$(foreach p,$(examples),$(eval $(raw)/$(p).wasm: $(wildcard examples/policies/$(p)/*.go)))

# Changes when the version of Go does.
$(bin)/.go: force
	@mkdir -p $(bin)
	@go env GOVERSION | cmp -s - $@ || go env GOVERSION >$@

# --- test ---

.PHONY: test test-go test-python
test: test-go test-python ## every test; needs Go and Python 3, and for one executor Node.js

test-go: build
	go test -timeout 10m $(TESTFLAGS) ./...

test-python:
	cd examples/digits && $(PYTHON) -E -s -B -m unittest discover -s tests -t .

.PHONY: demo
demo: build ## honest jobs and a thief, in out/demo
	PYTHON='$(PYTHON)' examples/digits/demo.sh

.PHONY: bench
bench: build ## Cloister's numbers beside what they are measured against
	.ci/bench

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (20s)
	.ci/fuzz $(FUZZTIME)

# What an enclave in a virtual machine is made of beside our own: QEMU, a kernel, a root file system, from Debian.
vm      ?= out/vm
VMFLAGS ?=
.PHONY: vm-parts
vm-parts: ## QEMU, a kernel and a root file system from Debian, into out/vm
	@deploy/debian/qemu '$(vm)'
	@deploy/debian/kernel '$(vm)'
	@deploy/debian/base '$(vm)/base.tar'

.PHONY: vm test-vm
vm: build vm-parts ## an enclave image that a virtual machine boots, in out/vm
	$(bin)/cloister image build deploy/vm/image.yaml -o '$(vm)/cloister.eif' --pcrs '$(vm)/pcrs.json'

test-vm: vm ## boot the image with a kernel, AF_VSOCK and /dev/nsm of its own, and see that all holds there
	CLOISTER_VM='$(abspath $(vm))' go test -count 1 -timeout 15m -run Machine ./enclave/launch
	PYTHON='$(PYTHON)' .ci/test-vm $(VMFLAGS)

# --- check: each is a target of its own; `make check` runs them all and says which failed ---

checks := check-format check-vet check-arm64 check-lint check-layers check-tidy check-generated \
	check-scripts check-guests check-plugins check-environments check-vulnerabilities check-race

.PHONY: check $(checks)
check: ## format, vet, lint, layers, races, generated files, tidiness, known vulnerabilities
	@.ci/each $(checks)

check-format:
	@out=$$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 -r gofmt -l); \
	  if [ -n "$$out" ]; then printf 'not formatted; run gofmt -w:\n%s\n' "$$out"; exit 1; fi

check-vet:
	go vet ./...

# Every package must compile for the other architecture that enclaves run on, its tests included.
check-arm64:
	GOOS=linux GOARCH=arm64 go vet ./...

check-lint: $(bin)/tools/golangci-lint
	$< run ./...

# Breaks every layer rule in a copy of the tree, one at a time, and sees the linter object.
check-layers: $(bin)/tools/golangci-lint
	.ci/lint-layers-test $<

check-tidy:
	go mod tidy -diff
	go mod verify

check-generated: protobuf-tools
	.ci/unchanged $(MAKE) --no-print-directory generate

check-scripts:
	$(PYTHON) -E -s -B .ci/check-scripts

# The policies in C and Rust are checked in, so that nobody needs clang or Rust; this compiles them again.
# Status 3: there is no compiler for them here. Then this one check says so and passes.
check-guests:
	@for build in policies/library/build-c policies/library/build; do \
	  status=0; $$build --check || status=$$?; \
	  if [ $$status = 3 ]; then echo "check-guests: NOT CHECKED: $$build cannot build here"; elif [ $$status != 0 ]; then exit $$status; fi; done

# The example of a plugin that is not in Go, built from PyPI and held against the suite.
check-plugins: build
	examples/plugins/perl/build $(bin)/plugins/perl
	$(bin)/cloister executor test $(bin)/plugins/perl/perl-executor --name perl --version 0.1.0 --probe examples/plugins/perl/probe/probe.pl

# NumPy and scikit-learn, ONNX Runtime, TensorFlow: environments from PyPI, and a job in each.
check-environments: build
	examples/environments/run

check-vulnerabilities: $(bin)/tools/govulncheck
	.ci/vulnerabilities $< $(VULNDB_VERSION)

# The policies of the library and of the examples run one after the other, in a guest, and the parts of images are read
# by one goroutine: there is nothing to see. Nor in tests that are one long loop; and two users race alike.
check-race: build
	CGO_ENABLED=1 go test -race -timeout 15m -skip '^(TestAsOrdinaryUser|TestOPA.*|Test(I[0-9]+_)?Every(Byte|Cut|Truncation).*)$$' $(TESTFLAGS) $$(go list ./... | grep -v -E '/policies/library$$|/examples/|/enclave/image/(rootfs|ramdisk|kernel|manifest|diff)$$')

.PHONY: generate
generate: protobuf-tools ## write every generated file again
	cd plugins/proto && PATH="$(CURDIR)/$(bin)/tools:$$PATH" buf generate
	go test -count=1 $$(git grep -l 'flag\.Bool("update"' -- '*_test.go' | xargs -n1 dirname | sort -u | sed 's,^,./,') -update

# --- tools: installed again when the pin or the version of Go changes, and only then ---

.PHONY: tools protobuf-tools
tools: $(bin)/tools/golangci-lint $(bin)/tools/govulncheck protobuf-tools ## the tools of check, into bin/tools
protobuf-tools: $(bin)/tools/buf $(bin)/tools/protoc-gen-go $(bin)/tools/protoc-gen-go-grpc

# $(call tool,name,package,version)
define tool
$(bin)/tools/$(1): $(bin)/tools/.$(1)@$(3)
$(bin)/tools/.$(1)@$(3): $(bin)/.go
	@mkdir -p $(bin)/tools && rm -f $(bin)/tools/.$(1)@*
	@echo "installing $(1) $(3)"
	@GOBIN='$(CURDIR)/$(bin)/tools' go install $(2)@$(3)
	@touch $$@
endef
$(eval $(call tool,golangci-lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,$(GOLANGCI_LINT_VERSION)))
$(eval $(call tool,govulncheck,golang.org/x/vuln/cmd/govulncheck,$(GOVULNCHECK_VERSION)))
$(eval $(call tool,buf,github.com/bufbuild/buf/cmd/buf,$(BUF_VERSION)))
$(eval $(call tool,protoc-gen-go,google.golang.org/protobuf/cmd/protoc-gen-go,$(PROTOC_GEN_GO_VERSION)))
$(eval $(call tool,protoc-gen-go-grpc,google.golang.org/grpc/cmd/protoc-gen-go-grpc,$(PROTOC_GEN_GO_GRPC_VERSION)))

.PHONY: clean
clean: ## remove bin and out
	rm -rf bin out
