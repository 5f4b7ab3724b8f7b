# Two commands for a new clone: `make demo` shows the main job, `make test` runs the tests.
# `make bench` lists the benchmarks; `make bench zoo/prune ARGS='ZOO --out TABLE.md'` runs one.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench paper clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m sample_models.demo --out out

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the words after `bench` name a benchmark and are no targets of their own
ifeq (bench,$(firstword $(MAKECMDGOALS)))
NAME := $(wordlist 2,2,$(MAKECMDGOALS))
ifneq (,$(NAME))
.PHONY: $(NAME)
$(NAME): bench
	@:
endif
endif

bench: $(VENV)/.installed
	@$(BIN)/python -m benchmarks $(NAME) $(ARGS)

# `paper` also fine-tunes, in PyTorch, and takes pictures out of scikit-image
$(VENV)/.paper: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,paper]'
	touch $@

# EVAL: a folder with networks and labelled data that this project does not ship (benchmarks/paper/section.py)
paper: $(VENV)/.paper
	$(BIN)/python -m benchmarks.paper.page --out docs/paper.md $(if $(EVAL),--eval $(EVAL))

clean:
	rm -rf $(VENV) out build .hypothesis .mypy_cache .pytest_cache .ruff_cache
