# Everything that is done with a checkout. Each target makes the virtual environment in .venv by itself, with what it needs
# and no more, and again only after pyproject.toml has changed; pip's own words are shown only if it fails.

PYTHON ?= $(shell command -v python3.11 2>/dev/null || echo python3)
VENV   := .venv
RUN    := $(VENV)/bin/python
STAMPS := $(VENV)/installed

# `make test-long SAMPLE=10` runs every tenth of the long tests.
SAMPLE ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-long lint benchmark clean

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s%s\n", $$1, $$2 }'

demo: $(STAMPS)/base ## Run the bank transfers, kill them part of the way, run them to the end, prove that nothing was lost
	@$(RUN) examples/bank_transfers/demo.py

test: $(STAMPS)/test ## Run the tests, in less than five minutes
	@$(RUN) -m pytest -q -m "not long"

# pytest says 5 where no test was selected: that is no failure here.
test-long: $(STAMPS)/test ## Run the tests that take longer (SAMPLE=10: every tenth of them)
	@$(RUN) -m pytest -q -m long --sample $(SAMPLE) || [ $$? -eq 5 ]

lint: $(STAMPS)/lint ## Run ruff, mypy --strict and the import contracts
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy --strict -p engine -p workflows
	@$(VENV)/bin/lint-imports --no-logo

benchmark: $(STAMPS)/test $(STAMPS)/benchmark ## Measure against peers
	@$(RUN) -m tests.benchmarks durable
	@$(RUN) -m tests.benchmarks actors

clean: ## Remove what make and the examples have made
	@rm -rf $(VENV) build dist examples/*/out .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------ the environment

$(STAMPS)/base: pyproject.toml
	@$(call install,.)

$(STAMPS)/test $(STAMPS)/lint $(STAMPS)/benchmark: $(STAMPS)/%: pyproject.toml | $(STAMPS)/base
	@$(call install,.[$*])

# An environment that a killed `make` left without pip is made anew; the stamp is set only once all is installed.
define install
set -e; \
if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }; \
	$(PYTHON) -m venv --clear $(VENV); \
fi; \
mkdir -p $(STAMPS); \
$(RUN) -m pip install -q --disable-pip-version-check --no-input -e '$(1)' >$(STAMPS)/log 2>&1 || { cat $(STAMPS)/log >&2; exit 1; }; \
touch $@
endef
