# The two commands of a fresh machine: `make train` and `make test`. They need Rust, Python 3 with
# pip, and GNU make.

TASK ?= cartpole-swingup
ARGS ?= --stop-at-return 800
CARGO ?= cargo
PYTHON ?= python3

.PHONY: help setup build train test check cuda-check

help:
	@echo "make train [TASK=walker-walk] [ARGS='--seed 3']   train on this machine, live"
	@echo "make test                                         everything CI runs"
	@echo "make setup                                        fetch MuJoCo and the suite's models"
	@echo "make build                                        target/release/pmpo"

setup:
	@$(PYTHON) deploy/setup/fetch_assets.py

build: setup
	$(CARGO) build --release

train: build
	target/release/pmpo train $(TASK) $(ARGS)

test: check
	$(CARGO) test --release --workspace

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --document-private-items
