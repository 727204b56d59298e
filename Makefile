# What people and CI type. `make help` lists the targets.
GO      ?= go
TOOLS   := $(GO) tool -modfile=tools/go.mod
BIN     := bin/pelton
MODULES := . examples bench deploy

export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

build: ## build the static binary bin/pelton
	$(GO) build -trimpath -ldflags '-s -w' -o $(BIN) ./cmd/pelton

run: build ## build and start `pelton serve --demo`
	$(BIN) serve --demo

deps: ## install what the tests need, where it is missing and may be installed
	@scripts/deps.sh

test: deps ## run all tests of all modules
	$(GO) test -count=1 -timeout 20m ./... # e2e builds the binary itself, which the cache of results does not see
	cd examples && $(GO) test -count=1 ./...
	cd bench && $(GO) vet ./... && $(GO) test -count=1 ./...
	cd deploy && $(GO) vet ./... && $(GO) test -count=1 ./...
	@$(MAKE) --no-print-directory rates

rates: deps ## hold rates against the clock, with nothing else running
	PELTON_RATES=1 $(GO) test -count=1 -parallel 1 -run '^TestFleetRate' ./e2e

race: deps ## run all tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 20m ./...

lint: ## gofumpt and golangci-lint, pinned in tools/go.mod
	$(TOOLS) golangci-lint run ./...
	$(TOOLS) golangci-lint fmt --diff ./...
	@for m in bench deploy; do (cd $$m && $(GO) tool -modfile=../tools/go.mod golangci-lint run ./... && \
	  $(GO) tool -modfile=../tools/go.mod golangci-lint fmt --diff ./...) || exit 1; done
	$(GO) mod verify
	@for m in $(MODULES); do (cd $$m && $(GO) mod tidy -diff) || exit 1; done

fmt: ## format the code
	$(TOOLS) golangci-lint fmt ./...

gate: ## hold the benchmarks against the merge base with main; GATE="-base REV" for another
	cd bench && $(GO) build -trimpath -o ../bin/gate ./gate
	bin/gate $(GATE)

check: lint test gate race ## what CI runs

chaos: ## the long fault suite: real processes, killed; PELTON_CHAOS_SEED replays a run
	PELTON_CHAOS=long $(GO) test -count=1 -timeout 90m -v ./chaos

bench: build ## compare with other queues, as docs/performance.md does, in at most 10 minutes
	cd bench && $(GO) build -trimpath -o ../bin/bench .
	bin/bench -pelton $(BIN) -save bin/bench

clean: ## remove what was built
	rm -rf bin

.PHONY: help build run deps test rates race lint fmt gate check chaos bench clean
