# Two commands: `make tutorial` runs the series, `make test` proves it. Each target is one line of Python.
PYTHON ?= python3
VENV := .venv/bin/python

.PHONY: tutorial test lint lab site clean

# Run the notebooks, show progress, print a table of results.
tutorial: .venv/installed
	$(VENV) -m helpers tutorial

test: lint
	OMP_NUM_THREADS=1 $(VENV) -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

lint: .venv/installed
	$(VENV) -m ruff check . && $(VENV) -m ruff format --check . && $(VENV) -m mypy

# The whole project is JupyterLab's root, so that links from notebooks to other files work.
lab: .venv/installed
	$(VENV) -m helpers.series.lab

# The series as a website, from the committed notebooks, into build/site.
site: .venv/site-installed
	$(VENV) -m helpers.series.site

clean:
	$(PYTHON) -c "import shutil; shutil.rmtree('build', ignore_errors=True)"

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed, this is ' + sys.version.split()[0] + ': run make PYTHON=python3.11')"
	@echo "Installing the pinned packages into .venv, a few minutes the first time ..."
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install --quiet --requirement requirements.txt
	$(VENV) -c "import pathlib; pathlib.Path('$@').touch()"

.venv/site-installed: .venv/installed requirements-site.txt
	$(VENV) -m pip install --quiet --requirement requirements-site.txt
	$(VENV) -c "import pathlib; pathlib.Path('$@').touch()"
