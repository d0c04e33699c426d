# Every target sets up .venv on first use. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SERVER := $(VENV)/triton-server

# A machine with an NVIDIA driver gets the GPU packages, any other the CPU ones.
GPU    := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
EXTRAS := export,hub,dev,openvino,tensorrt-rtx,$(if $(GPU),onnxruntime-gpu$(comma)tensorrt,onnxruntime)
comma  := ,
# One process for each core, 8 at most: more wait for each other's first bundle.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# Options of `make export`, `check`, `compare` and `bench`: see the README.
MODEL      ?=
WEIGHTS    ?=
ONNX       ?=
DATA       ?=
MEAN       ?=
STD        ?=
PRECISIONS ?=
TARGETS    ?=
BATCHES    ?= 1 8
OUT        ?=
QUICK      ?=
# The bundle of timm:NAME is build/NAME, dots and the like as underscores.
BUNDLE     ?= $(or $(OUT),build/$(or $(subst .,_,$(notdir $(subst :,/,$(MODEL)))),vit_digits))

ARGUMENTS = $(MODEL) $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(ONNX),--onnx "$(ONNX)") \
	$(if $(MEAN),--mean "$(MEAN)") $(if $(STD),--std "$(STD)") \
	$(if $(DATA),--calib "$(DATA)" --eval "$(DATA)") $(if $(OUT),--out "$(OUT)") \
	$(foreach p,$(PRECISIONS),--precision $(p)) $(foreach t,$(TARGETS),--target $(t))

.DEFAULT_GOAL := help
.PHONY: help setup export check compare inspect zoo example test slow docs test-gpu bench bench-gpu lint format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  variables: MODEL WEIGHTS ONNX DATA MEAN STD PRECISIONS TARGETS OUT BATCHES QUICK PYTHON TORCH_INDEX"

setup: $(READY) ## install everything into .venv

$(READY): pyproject.toml requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/pip install -c requirements/constraints.txt --index-url "$(TORCH_INDEX)" torch)
	$(BIN)/pip install -c requirements/constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

# The Triton server that the tests start, in an environment of its own.
$(SERVER)/.ready: $(READY) requirements/triton-server.txt
	$(PYTHON) -m venv $(SERVER)
	$(SERVER)/bin/pip install --no-deps --require-hashes -r requirements/triton-server.txt
	$(BIN)/python -c "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" \
		> "$$($(SERVER)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/ours.pth"
	@touch $@

export: $(READY) ## build a bundle of proven engines (default: build/vit_digits)
	$(BIN)/vit-edge export $(ARGUMENTS)

check: $(READY) ## test the bundle's engines on this machine
	$(BIN)/vit-edge check "$(BUNDLE)"

compare: $(READY) ## compare latency and accuracy across precisions, recommend one, write a report
	$(BIN)/vit-edge compare "$(BUNDLE)" --batch $(BATCHES)

inspect: $(READY) ## print what the bundle holds
	$(BIN)/vit-edge inspect "$(BUNDLE)"

bench: $(READY) ## compare speed with every peer, under 30 minutes (QUICK=1: under 5)
	$(BIN)/python -m benchmarks.speed $(if $(QUICK),--quick,--markdown docs/performance-peers.md)
	$(BIN)/python -m benchmarks.plans $(if $(QUICK),--quick,--markdown docs/tensorrt-plan.md)

zoo: $(READY) ## export every model of the zoo by every door, write docs/models.md (hours)
	$(BIN)/python -m benchmarks.zoo $(if $(QUICK),,--engines) --markdown docs/models.md

example: $(READY) ## classify a digit, draw its patches and attention rollout
	$(BIN)/python -m vit_edge.vit.example_usage

test: $(READY) $(SERVER)/.ready ## run the tests (no GPU needed)
	$(PYTEST) -m "not slow and not types"

slow: $(READY) $(SERVER)/.ready ## run the tests that take minutes
	$(PYTEST) -m slow

docs: $(READY) ## build the documentation into build/site
	$(BIN)/pip install -q -c requirements/constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

test-gpu: $(READY) ## run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu -rs

bench-gpu: $(READY) ## compare our engines with PyTorch on this GPU (BUNDLE, or one of ViT-B/16)
	$(BIN)/python -m benchmarks.gpu $(if $(filter command line environment,$(origin BUNDLE)),"$(BUNDLE)")

lint: $(READY) ## check style and types, also against every recorded TensorRT
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m types tests/runtime/backends

format: $(READY) ## rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove bundles, reports and caches of this checkout
	rm -rf build .mypy_cache .pytest_cache .ruff_cache
