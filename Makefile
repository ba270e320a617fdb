# The face of the build. Every target does its own set-up; `make help` lists them.
SHELL := /bin/bash
JOBS ?= $(shell nproc)
PREFIX ?= $(if $(filter 0,$(shell id -u)),/usr/local,$(HOME)/.local)
prefix = $(shell realpath -m -- "$(PREFIX)")
RECIPE ?= recipes/quickstart.yaml
BENCH_FLAGS ?= --quick
TEST_FLAGS ?=

.DEFAULT_GOAL := build
.PHONY: help setup build run test bench lint format install uninstall clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing (silent when all is there)
	@setup/install.sh

build: setup ## build the command (build/fathom) and the benchmarks (build/bench/bench_<library>)
	@test -f build/build.ninja || cmake --preset release
	@cmake --build build -j $(JOBS)

run: build ## run a recipe end to end: RECIPE=recipes/quickstart.yaml
	@build/fathom run $(RECIPE)

test: build ## build and run every test but the slow ones
	@status=0; ctest --test-dir build --output-on-failure -j $(JOBS) -LE slow $(TEST_FLAGS) || status=$$?; \
		grep -h '^SKIP ' build/Testing/Temporary/LastTest.log || true; exit $$status

bench: build ## run every benchmark: BENCH_FLAGS="--quick"
	@set -e; for program in build/bench/bench_*; do \
		[ -f $$program ] && [ -x $$program ] || continue; $$program $(BENCH_FLAGS); done

lint: ## format, clang-tidy, shellcheck, spelling
	@setup/install.sh --dev
	@test/lint.sh

format: ## rewrite the C files in the house's format
	@setup/install.sh --dev
	@git ls-files -co --exclude-standard '*.c' '*.h' | xargs -r clang-format -i

install: build ## install the command, libraries and headers: PREFIX=/usr/local (or ~/.local), DESTDIR
	@cmake --install build --prefix "$(prefix)" >build/install.log || { cat build/install.log; exit 1; }
	@install -D -m 644 build/install_manifest.txt "$(DESTDIR)$(prefix)/share/fathom/installed.txt"
	@echo "installed below $(DESTDIR)$(prefix)"

uninstall: ## remove what `make install` with the same PREFIX and DESTDIR installed
	@DESTDIR="$(DESTDIR)" setup/uninstall.sh "$(prefix)"

clean: ## remove all build folders (not what set-up fetched)
	@rm -rf build build-dev build-asan build-tsan build-fuzz compile_commands.json
