# Two commands: `make demo` and `make test`. Each installs what it needs into .venv first.

PYTHON ?= python3.11
VENV   := .venv
OLD    := .venv-old
MIN    := .venv-min
PADDLEX := .venv-paddlex
# the oldest Python that is promised; PyYAML 5.4 has no wheel for a newer one
MIN_PYTHON ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.9.*/bin/python) python3.9)
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
PAPER_PEER := paddleclas==2.6.0
PADDLEX_PEER := 'paddlex[cv]==3.7.2' paddlepaddle==3.3.1 onnxruntime==1.32.0

.PHONY: help demo test test-old test-min programs wheel-test board slow fuzz fuzz-kernels chaos verify-zoo docs venv peers \
	lint format clean

help:
	@echo "make demo       train, evaluate, export and predict handwritten digits on this machine's CPU (minutes)"
	@echo "make test       the test suite (under ten minutes on two cores)"
	@echo "make test-old   the core tests on paddlepaddle 2.6.2"
	@echo "make test-min   prediction in the field on the lowest versions that setup.py promises, without Paddle"
	@echo "make programs   PaddleX's and PaddleClas's own predictors on our packages (PaddleX in .venv-paddlex)"
	@echo "make wheel-test builds a wheel, installs it in a fresh environment, trains, exports, compiles the board program"
	@echo "make board      the board program with PADDLE_LITE_DIR, a Paddle Lite for armv8, under an emulator (minutes)"
	@echo "make slow       the long tests: README's slow commands, campaigns"
	@echo "make fuzz       an hour of made-up input for every reader"
	@echo "make fuzz-kernels 10000 uses of fused networks against stock operators, under AddressSanitizer (some twenty minutes)"
	@echo "make chaos      200 kills and a fault at every system call of a save"
	@echo "make verify-zoo download, load and (IMAGENET=dir) evaluate every published weight file"
	@echo "make docs       docs/models.md's table, and the API reference into docs/api"
	@echo "make venv       .venv with everything for development"
	@echo "make peers      PyTorch into .venv, for the tests and benchmarks that compare with it"
	@echo "make lint       ruff; make format: let ruff format"
	@echo "make clean      remove the environments and the demo's files"

# the demo needs only Paddle: the rest of the development environment is added to the same place by `make venv`
$(VENV)/.demo: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e '.[cpu,demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) install -c constraints.txt -e '.[cpu,export,visualdl,tensorboard,serve,ray,dev]'
	$(PIP) install --no-deps $(PAPER_PEER)
	@touch $@

$(OLD)/.ready: setup.py constraints-old.txt
	$(PYTHON) -m venv $(OLD)
	$(OLD)/bin/python -m pip --disable-pip-version-check -q install -c constraints-old.txt -e '.[cpu,dev]' setuptools
	$(OLD)/bin/python -m pip --disable-pip-version-check -q install --no-deps $(PAPER_PEER)
	@touch $@

# no Paddle in it
$(MIN)/.ready: setup.py constraints-min.txt
	$(MIN_PYTHON) -m venv $(MIN)
	$(MIN)/bin/python -m pip --disable-pip-version-check -q install -c constraints-min.txt -e '.[onnx,serve]' pytest
	@touch $@

# PaddleX's dependencies are not ours
$(PADDLEX)/.ready:
	$(PYTHON) -m venv $(PADDLEX)
	$(PADDLEX)/bin/python -m pip --disable-pip-version-check -q install $(PADDLEX_PEER)
	@touch $@

venv: $(VENV)/.dev

docs: $(VENV)/.dev
	$(BIN)/python tools/make_docs.py

peers: $(VENV)/.dev
	$(PIP) install -c constraints.txt torch

demo: $(VENV)/.demo
	$(BIN)/python tools/demo.py

# Paddle Lite's tools live in an environment of an older Python, made once where there is one: see lite_env.py
test: $(VENV)/.dev
	@$(BIN)/python -m ppmobilenet.field.engines.lite_env >/dev/null || echo "the tests of Paddle Lite's tools will be skipped"
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not board"

test-old: $(OLD)/.ready
	$(OLD)/bin/python -m pytest -n 2 --dist worksteal -m "not slow and not board" \
		tests/config tests/models tests/weights tests/data tests/training tests/test_cli.py tests/test_machine.py

# the packages are made by the full environment; test_engines.py makes its own, with Paddle
test-min: $(MIN)/.ready $(VENV)/.dev
	rm -rf $(MIN)/field
	$(BIN)/python tests/field/make_package.py $(MIN)/field --int8
	PPMOBILENET_FIELD=$(MIN)/field $(MIN)/bin/python -m pytest -p no:cacheprovider tests/field tests/test_machine.py \
		tests/test_nothing_runs_code.py tests/photos/test_pixels.py tests/photos/test_pictures.py \
		--ignore=tests/field/test_engines.py

programs: $(PADDLEX)/.ready $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/workshop/test_programs.py

wheel-test: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/test_wheel.py

# PPMOBILENET_ARM_ROOT: where Debian's libopencv-imgcodecs406:arm64 and what it needs are unpacked (default: /)
board: $(VENV)/.dev
	$(BIN)/python -m pytest -m board tests/field/test_board_emulated.py

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

fuzz: $(VENV)/.dev
	PPMOBILENET_FUZZ_SECONDS=3600 $(BIN)/python -m pytest tests/test_fuzz.py

fuzz-kernels: $(VENV)/.dev
	$(BIN)/python tests/kernels/against_stock.py --cases 10000 --sanitizer $$(mktemp -d)

chaos: $(VENV)/.dev
	$(BIN)/python tools/chaos.py --kills 200 --faults

verify-zoo: $(VENV)/.dev
	$(BIN)/python tools/verify_zoo.py $(if $(IMAGENET),--imagenet $(IMAGENET))

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OLD) $(MIN) $(PADDLEX) demo
