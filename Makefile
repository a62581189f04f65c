# The two commands of a fresh machine: `make train` and `make test`. They need Rust, Python 3 with
# pip, and GNU make.

TASK ?= cartpole-swingup
# Mean evaluation return at which a task counts as solved; a --stop-at-return in ARGS wins.
SOLVED ?= 800
ARGS ?=
CARGO ?= cargo
PYTHON ?= python3

.PHONY: help setup smollm2 build dist wheel train test test-data test-language test-python test-cluster test-dashboards test-watch test-manifests check cuda-check device-test parity-env conformance conformance-env docs reference

help:
	@echo "make train [TASK=walker-walk] [ARGS='--seed 3']   train on this machine, live"
	@echo "make test                                         the whole test suite"
	@echo "make conformance                                  the replay's protocol against gRPC's own Python"
	@echo "make test-cluster                                 docker-compose.yml with a real engine"
	@echo "make test-dashboards                              dashboards and alerts against a real Prometheus"
	@echo "make test-watch                                   the page of a run in a real browser"
	@echo "make device-test                                  the update through OpenGL against the CPU"
	@echo "make test-manifests                               Kubernetes and Slurm files, without a cluster"
	@echo "make setup                                        fetch MuJoCo and the suite's models"
	@echo "make smollm2                                      fetch the language model SmolLM2-135M-Instruct"
	@echo "make build                                        target/release/pmpo"
	@echo "make wheel                                        the Python package, in target/wheels"
	@echo "make test-python                                  the Python package, in a private environment"
	@echo "make test-data                                    data sets, beside Minari's own package"
	@echo "make test-language                                language models, beside transformers on JAX"
	@echo "make dist                                         one archive for machines of the same system"
	@echo "make docs                                         the manual as a book in target/book"
	@echo "make reference                                    the manual's generated pages, from the code"

setup:
	@$(PYTHON) deploy/setup/fetch_assets.py

smollm2:
	@$(PYTHON) deploy/setup/fetch_assets.py smollm2

build: setup
	$(CARGO) build --release

# Unpacked anywhere on a machine of the same system, it needs nothing else.
dist: build
	@deploy/setup/dist.sh target/release/pmpo target/dist

# The Python package, with the command inside: `pip install target/wheels/pmpo-*.whl`.
wheel: setup
	@actor/python/wheel.sh

train: build
	target/release/pmpo train $(TASK) --stop-at-return $(SOLVED) $(ARGS)

# Without the examples, which are slow proofs of their own: clippy has compiled them.
test: check cuda-check parity-env conformance-env
	$(CARGO) test --release --workspace --lib --bins --tests --no-fail-fast
	$(CARGO) test --release --workspace --doc
	$(CONFORMANCE)
	$(MAKE) test-data
	$(MAKE) test-python

# The replay's protocol, spoken by gRPC's own Python and NumPy, which know the .proto alone. `make test` runs
# it with the binary that the tests were built with.
CONFORMANCE = third_party/venv-conformance/bin/python replay/conformance/main.py target/release/pmpo
conformance: build conformance-env
	$(CONFORMANCE) $(ARGS)

conformance-env:
	@deploy/setup/venv.sh conformance grpcio==1.85.1 grpcio-status==1.85.1 grpcio-tools==1.85.1 numpy==2.4.6

# The wheel as a user has it, beside the real Gymnasium, dm_control and onnxruntime.
test-python: wheel
	@actor/python/tests/run.sh

# Data sets between the library and Minari's own package, in each of its formats.
test-data:
	@deploy/data/tests/peers.sh

# Language models beside transformers' own, on JAX. Needs `make smollm2` first, or leaves that model out.
test-language: build
	@deploy/setup/venv.sh language transformers==4.49.0 jax==0.10.2 flax==0.12.8 safetensors==0.8.0 numpy==2.4.6
	third_party/venv-language/bin/python learner/language/tests/peers.py target/release/pmpo

# `.ci/run` passes --skip-without-engine.
test-cluster:
	@$(PYTHON) deploy/test/cluster.py $(ARGS)

# The update on a device against the update on the CPU. Built without optimisation, which spares most of
# the compiler's time: the networks compared are small. Without a Vulkan driver the tensor library takes
# OpenGL and its other kernel language: docs/guides/gpu.md says why. On a GPU: `make device-test DEVICE_ENV=`.
DEVICE_ENV ?= VK_ICD_FILENAMES=/nonexistent EGL_PLATFORM=surfaceless CUBECL_AUTOTUNE_LEVEL=minimal
device-test:
	$(DEVICE_ENV) $(CARGO) test -p pmpo-update --features vulkan --lib -- device

# The book's builder is compiled when it is first asked for, which takes minutes; no test needs it.
MDBOOK := target/tools/bin/mdbook
$(MDBOOK):
	$(CARGO) install mdbook --version 0.5.4 --locked --root target/tools

docs: $(MDBOOK)
	$(MDBOOK) build docs

# Writes what is generated of the manual; `make test` compares it with the code.
reference: setup
	PMPO_WRITE_REFERENCE=1 $(CARGO) test --release --workspace --test manual reference

# Every expression of the dashboards and the rules, on a real run; wants Debian's package prometheus.
test-dashboards: build
	$(PYTHON) deploy/test/dashboards.py

# A run's page in a headless browser, its event files in TensorBoard (fetched with pip, 180 MB); wants
# Debian's packages chromium-headless-shell and fonts-dejavu-core, and for the film libegl1, libegl-mesa0
# and libgl1-mesa-dri. Its pictures are in target/watch.
test-watch: build
	$(PYTHON) deploy/test/watch.py

# The manifests against the published schemas; with target/release/pmpo, their flags too.
test-manifests:
	@deploy/test/manifests.sh

# dm_control itself, in a private environment, for the parity test to compare with.
parity-env:
	@actor/suite/tests/parity_env.sh

check: setup
	$(CARGO) fmt --all --check
	$(PYTHON) deploy/test/dashboards.py quick
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --document-private-items

# Type-checks the GPU build where no CUDA is installed: DOCS_RS has the CUDA crates' build scripts
# skip what they would otherwise fetch or link.
cuda-check: setup
	DOCS_RS=1 $(CARGO) check --release -p pmpo-update --features cuda
