# For trying and developing dynofa_ros where no ROS 2 is installed. A robot uses colcon: see README.md.
.DEFAULT_GOAL := help
.PHONY: help install install-demo demo test lint docs dist clean

# An interpreter (3.10 to 3.12); without it the first of python3, python3.12, python3.11, python3.10 that fits.
PYTHON ?=
# Arguments of `dynofa demo` or pytest, e.g. make demo ARGS="--seconds 30 --apps 2"
ARGS ?=
# make test QUICK=1: only what has no processes, no clock and little to compute
QUICK ?=

help: ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install-demo: ## create or update .venv with what the demo uses, without torch (PYTHON=... chooses the interpreter)
	@PYTHON="$(PYTHON)" tools/install.sh demo

install: ## the same with everything: torch and what tests and checks need
	@PYTHON="$(PYTHON)" tools/install.sh test

demo: install-demo ## install what the demo uses, then `dynofa demo` (ARGS=...)
	@.venv/bin/dynofa demo $(ARGS)

test: install ## install everything, then pytest (ARGS=...), on two cores three at a time, as many wait; last those about speed
	@run() { .venv/bin/python -m pytest "$$@" $(ARGS) || test $$? -eq 5 || failed=1; }; failed=0; \
	run -n 3 --dist worksteal -m "not live$(if $(QUICK), and not slow)"; \
	$(if $(QUICK),,run -n 3 --dist loadfile -m "live and not alone"; run -m alone;) \
	exit $$failed # 5, ARGS leave no test, is no failure

lint: install ## install everything, then ruff and mypy
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

build/docs-env/bin/mkdocs: constraints/docs.txt
	@$(or $(PYTHON),python3) -m venv --clear build/docs-env && build/docs-env/bin/pip install --quiet -r $<

docs: build/docs-env/bin/mkdocs ## write the documentation as a site to build/docs; fails on a warning or a dead link
	@NO_MKDOCS_2_WARNING=1 $< build

dist: install-demo ## write dist/dynofa_ros-VERSION.tar.gz, from which pip and colcon build
	@.venv/bin/python -c "from setuptools.build_meta import build_sdist; print('dist/' + build_sdist('dist'))"

clean: ## remove what was built; .venv stays
	rm -rf build install log dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
