# Every target does its own set-up: `make demo` in a fresh clone is enough.
#   make demo PYTHON=python3.12 VENV=/elsewhere/venv

PYTHON ?= python3
VENV   ?= .venv

PY     = $(VENV)/bin/python
PIP    = $(PY) -m pip install --disable-pip-version-check
LISTS  = requirements.txt constraints.txt pyproject.toml
RUN    = $(VENV)/.ready-to-run
DEV    = $(VENV)/.ready-to-develop

.PHONY: help demo lab test browser bench notebooks check setup setup-dev clean handout docs
.DEFAULT_GOAL := help

help:
	@echo "make demo       the embedded world on the CPU, offline: table, figures, report.html"
	@echo "make lab        JupyterLab at notebook 00 (ARGS=--allow-root in a container)"
	@echo "make test       the fast tests and doctests, two at a time (ARGS='-k cam', '-m slow', '-n 0')"
	@echo "make browser    the instruments in a real JupyterLab and Notebook, by the system's chromium"
	@echo "make bench      the stages of CLIP-ES timed on this machine (ARGS='--rounds 9' or --help)"
	@echo "make notebooks  build and execute notebooks/.src into notebooks/*.ipynb"
	@echo "make handout    the course to hand out, with solutions for the teacher, into build/handout"
	@echo "make check      ruff, formatting, annotations, and every notebook executed and compared, which no test"
	@echo "                does unless it is slow"
	@echo "make setup      only the environment; make setup-dev: with the tools of test and check"
	@echo "make docs       the documentation as web pages, into build/docs"
	@echo "make clean      remove caches and build products; keeps $(VENV) and data/"
	@echo "Each does its own set-up in VENV ($(VENV)) with PYTHON ($(PYTHON))."

demo: $(RUN)
	$(PY) -m wsss_kit demo

lab: $(RUN)
	$(PY) -m jupyterlab $(ARGS) --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

# Workers take whole runs of neighbouring tests, so that a module's fixture is made once or twice.
test: $(DEV)
	$(PY) -m pytest -n 2 --dist worksteal $(ARGS)

# Pictures of the screen go to build/screenshots.
browser: $(DEV)
	$(PY) -m pytest tests/browser -m browser $(ARGS)

bench: $(RUN)
	$(PY) -m wsss_kit bench $(ARGS)

notebooks: $(DEV)
	$(PY) notebooks/build.py

# Warnings are errors. The pages lie in build/docs.
docs: $(VENV)/.ready-for-docs
	rm -rf build/pages build/docs
	mkdir -p build && cp -r docs build/pages
	$(PY) -m sphinx -q -W --keep-going build/pages build/docs

handout: $(DEV)
	$(PY) notebooks/handout.py $(ARGS)

check: $(DEV)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(VENV)/bin/pyrefly check --python-interpreter-path $(PY)
	$(PY) notebooks/build.py --check --jobs 2

setup: $(RUN)

setup-dev: $(DEV)

# The stamps repeat the installation when one of the lists has changed. The package is installed
# editable, so that notebooks find it from their own folder and from a plain `jupyter lab`.
$(RUN): $(LISTS)
	@$(MAKE) --no-print-directory install EXTRA= STAMP=$@

$(DEV): $(LISTS)
	@$(MAKE) --no-print-directory install EXTRA='[dev]' STAMP=$@
	@touch $(RUN)

$(VENV)/.ready-for-docs: $(LISTS)
	@$(MAKE) --no-print-directory install EXTRA='[docs]' STAMP=$@

.PHONY: install
install:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$(PYTHON) is missing or older than Python 3.10; name another: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make the environment $(VENV); on Debian and Ubuntu install python3-venv" >&2; \
	  exit 1; }
	$(PIP) --quiet 'pip>=23'
	$(PIP) -c constraints.txt -e '.$(EXTRA)' || { \
	  echo; echo "The versions in constraints.txt do not install here (see above)."; \
	  echo "Trying without them: newer versions may behave differently."; echo; \
	  $(PIP) -e '.$(EXTRA)'; }
	@touch $(STAMP)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache notebooks/.ipynb_checkpoints
	find wsss_kit tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
