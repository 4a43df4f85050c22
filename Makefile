# Loopback. `make demo` and `make test` install what they need; everything else assumes that one of them ran.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

export PATH := $(PATH):/usr/local/go/bin
export CGO_ENABLED := 0

VERSION ?= 0.1.0
HOSTS ?= 3
LDFLAGS := -s -w -X main.version=$(VERSION)
PROGRAMS := loopbackd loopback loopback-agent
tool = go tool -modfile=tools/$(1)/go.mod

# The race detector needs cgo; what we ship does not.
RACE := CGO_ENABLED=1 go test -race

.PHONY: build
build: web/dist/index.html ## Build the programs into bin/
	@mkdir -p bin
	@for p in $(PROGRAMS); do echo "building $$p"; go build -trimpath -ldflags '$(LDFLAGS)' -o bin/$$p ./cmd/$$p; done

# npm's packages, as the lock file has them; node among them, since tools want a newer one than Debian's.
web/node_modules/.package-lock.json: web/package.json web/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing; run make prepare first (as root)" >&2; exit 1; }
	@echo "fetching the console's npm packages"
	@cd web && npm ci --ignore-scripts --silent --no-progress
	@touch $@

web/dist/index.html: web/node_modules/.package-lock.json web/index.html web/vite.config.ts $(shell find web/src web/public -type f 2>/dev/null)
	@echo "building the console"
	@cd web && PATH=$$PWD/node_modules/.bin:$$PATH vite build --logLevel warn
	@touch $@

.PHONY: web
web: web/dist/index.html ## Build the console into web/dist/

.PHONY: agents
agents: ## Build the agent for every platform into bin/agents/
	@for arch in amd64 arm64; do echo "building loopback-agent for linux/$$arch"; \
	  GOARCH=$$arch go build -trimpath -ldflags '$(LDFLAGS)' -o bin/agents/$(VERSION)/linux-$$arch/loopback-agent ./cmd/loopback-agent; done

.PHONY: prepare
prepare: ## Install the Debian packages that demo and tests use
	@build/prepare.sh

.PHONY: demo demo-down demo-exec
demo: prepare build agents ## Control plane and HOSTS real systemd machines, enrolled and managed
	@HOSTS=$(HOSTS) VERSION=$(VERSION) build/demo.sh up
demo-down: ## Remove every trace of the demo
	@build/demo.sh down
demo-exec: ## Run CMD as root inside the demo machine HOST
	@build/demo.sh exec '$(HOST)' '$(CMD)'

.PHONY: generate
generate: web/node_modules/.package-lock.json ## Write generated code and pages anew
	@$(call tool,buf) buf generate
	@go generate ./...

.PHONY: fresh
fresh: ## Fail where generated code is not what generation gives
	@build/fresh.sh

.PHONY: lint
lint: web/node_modules/.package-lock.json
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "not gofmt'd:"; echo "$$unformatted"; exit 1; fi
	@go vet ./...
	@for m in oracle collector; do (cd tools/$$m && go list -deps ./... >/dev/null) || { echo "tools/$$m/go.mod lags behind: (cd tools/$$m && go mod tidy)"; exit 1; }; done
	@$(call tool,check) staticcheck ./...
	@$(call tool,buf) buf lint
	@shellcheck build/*.sh test/lab/*.sh .ci/run
	@cd web && PATH=$$PWD/node_modules/.bin:$$PATH tsc --noEmit

.PHONY: vuln
vuln: ## Known vulnerabilities in dependencies
	@build/vuln.sh

.PHONY: test test-short
test: prepare build agents fresh lint vuln ## Every test
	@build/test.sh
test-short: ## The quick part: no machines, no PostgreSQL
	@LOOPBACK_TEST_SHORT=1 go test -short ./...

.PHONY: pictures
pictures: prepare build ## Pictures of the console for README and guides, from the run that tests it
	@mkdir -p .cache/pictures docs/images
	@CONSOLE_OUT=$(CURDIR)/.cache/pictures go test -count=1 -run '^TestConsole$$' ./test/console
	@cp .cache/pictures/hosts-light.png docs/images/console.png

.PHONY: bench
bench: build ## Benchmarks side by side with their rivals; AREA=link runs one area
	@go run ./bench $(if $(AREA),-area $(AREA))

.PHONY: soak
soak: build ## Long fault, fuzz and leak runs; AREA=shell runs one area
	@build/soak.sh '$(AREA)'

.PHONY: help
help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
