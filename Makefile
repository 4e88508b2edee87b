# Vireo. `make demo` shows it, `make test` checks everything, `make bench` measures it beside its peers.

CARGO ?= cargo
export CARGO_TERM_COLOR ?= auto

.PHONY: help demo test bench build dependencies format lint unit guests fuzz

help:
	@echo 'make demo    install what is missing, build, boot a small Linux guest and run a command in it'
	@echo 'make test    formatting, lints, unit and documentation tests, tests with real guests'
	@echo 'make bench   the figures of SPECIFICATION.md, side by side with peers'
	@echo 'make fuzz    every fuzz target for SECONDS (60) each'
	@echo 'make build   target/release/{vireo,vireo-vmm}'

dependencies:
	@tools/install-dependencies

build:
	$(CARGO) build --release --locked

demo: dependencies build
	@tools/demo

test: dependencies format lint unit guests

format:
	@echo '== formatting'
	$(CARGO) fmt --all --check

lint:
	@echo '== lints'
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit:
	@echo '== unit, integration and documentation tests'
	$(CARGO) test --workspace --locked --no-fail-fast

guests: build
	@echo '== tests with real guests'
	@tools/test-guests

bench: dependencies build
	@tools/bench

SECONDS ?= 60
fuzz:
	@tools/fuzz $(SECONDS)
