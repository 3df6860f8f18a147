# `make demo` and `make test` create the virtual environment that they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
HOME_DIR ?= demo-home

.DEFAULT_GOAL := help
.PHONY: help demo test lint test-fast test-faults test-python mutants clean install install-venv install-files activate uninstall wheelhouse deb

# Destinations of `make install`. DESTDIR is for packagers: files only; no user is created and nothing is started.
DESTDIR       ?=
PREFIX        ?= /usr/local
# Not among the stack's environments in /opt/quantum/venvs, one of which has the name of this service.
INSTALL_VENV  := /opt/retrain-worker/venv
# Not an interpreter under /root or /home: the unit's ProtectHome= hides these directories.
SYSTEM_PYTHON ?= /usr/bin/python3
# A directory made by `make wheelhouse` on a host of the same kind: nothing is downloaded.
WHEELHOUSE    ?=
TORCH         := torch==2.13.0
PIP_INSTALL   := $(INSTALL_VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade-strategy only-if-needed \
                 $(if $(WHEELHOUSE),--no-index --find-links $(WHEELHOUSE))
LIB           := $(DESTDIR)$(PREFIX)/lib
SHARE         := $(DESTDIR)$(PREFIX)/share/doc/retrain-worker
UNITS         := quantum-retraining-worker.service quantum-ai-engine-restart.path quantum-ai-engine-restart.service
VERSION       := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' retrain_worker/__init__.py)
# A chroot or an image has no service manager.
IF_BOOTED     := test ! -d /run/systemd/system ||

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

# torch first and by version: an unpinned `torch` installs gigabytes of GPU libraries.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[daemon,test,postgres]'
	touch $@

demo: $(VENV)/.installed  ## one run on a simulated market, from rows to a promoted model and a consumed event
	@$(BIN)/retrain-worker demo --home $(HOME_DIR)

test: $(VENV)/.installed lint  ## every test, with coverage
	mkdir -p build/coverage
	COVERAGE_FILE=$(CURDIR)/build/coverage/data $(BIN)/python -m pytest -n 2 --dist loadscope --cov --cov-report=term -q

test-fast: $(VENV)/.installed  ## the tests that need no worker process and no server
	$(BIN)/python -m pytest -q tests/unit tests/architecture

test-faults: $(VENV)/.installed  ## the swap and its recovery under every injected fault (needs strace; about an hour)
	$(BIN)/python -m tests.faults.strace_sweep
	$(BIN)/python -m tests.faults.power_loss

# torch has small builds for few versions of Python: without it, tests that need it are skipped
test-python: $(VENV)/.installed  ## unit and contract tests on another Python: VERSION=3.13
	python=$$(UV=$(BIN)/uv .ci/find-python $(VERSION)) && \
	    $(BIN)/uv venv --quiet --clear --python $$python build/venv-$(VERSION)
	echo torch | $(BIN)/uv pip install --quiet --python build/venv-$(VERSION) --excludes /dev/stdin \
	    --constraint constraints.txt --editable '.[test]'
	build/venv-$(VERSION)/bin/python -m pytest -n 2 -q tests/unit tests/contract

# `mutmut show NAME` prints a mutant
mutants: $(VENV)/.installed  ## mutation tests of domain and stages (about an hour of one CPU)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt mutmut==3.8.1
	PATH=$(CURDIR)/$(BIN):$$PATH mutmut run --max-children 1
	PATH=$(CURDIR)/$(BIN):$$PATH mutmut results

lint: $(VENV)/.installed  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

install: $(if $(DESTDIR),,install-venv) install-files $(if $(DESTDIR),,activate)  ## as root: user, environment, units; also upgrades

install-venv:
	@# the mark tells an environment of this program from another one
	test ! -e $(INSTALL_VENV) || test -e $(INSTALL_VENV)/.retrain-worker || \
	    { echo '$(INSTALL_VENV) was not made by this program: move it away' >&2; false; }
	test -x $(INSTALL_VENV)/bin/python || $(SYSTEM_PYTHON) -m venv $(INSTALL_VENV)
	touch $(INSTALL_VENV)/.retrain-worker
	$(PIP_INSTALL) $(TORCH)
	$(PIP_INSTALL) --constraint constraints.txt '$(if $(WHEELHOUSE),retrain_worker,.)[daemon,postgres]$(if $(WHEELHOUSE),==$(VERSION))'

install-files:
	install -d $(LIB)/systemd/system $(LIB)/systemd/catalog $(LIB)/sysusers.d \
	    $(LIB)/tmpfiles.d $(SHARE)/drop-ins $(SHARE)/contracts $(SHARE)/decisions $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(addprefix systemd/,$(UNITS)) $(LIB)/systemd/system
	install -m 644 systemd/sysusers.conf $(LIB)/sysusers.d/quantum-retraining-worker.conf
	install -m 644 systemd/tmpfiles.conf $(LIB)/tmpfiles.d/quantum-retraining-worker.conf
	install -m 644 systemd/retrain-worker.catalog $(LIB)/systemd/catalog
	install -m 644 systemd/drop-ins/*.conf $(SHARE)/drop-ins
	install -m 644 README.md docs/*.md etc/quantum/retraining-worker.env $(SHARE)
	install -m 644 docs/contracts/*.md $(SHARE)/contracts
	install -m 644 docs/decisions/*.md $(SHARE)/decisions
	ln -sfn $(INSTALL_VENV)/bin/retrain-worker $(DESTDIR)$(PREFIX)/bin/retrain-worker

activate:
	systemd-sysusers $(LIB)/sysusers.d/quantum-retraining-worker.conf
	systemd-tmpfiles --create $(LIB)/tmpfiles.d/quantum-retraining-worker.conf
	@# the operator's file is never overwritten
	test -e /etc/quantum/retraining-worker.env || \
	    install -m 640 etc/quantum/retraining-worker.env /etc/quantum/retraining-worker.env
	-$(INSTALL_VENV)/bin/retrain-worker access grant
	journalctl --update-catalog
	$(IF_BOOTED) systemctl daemon-reload
	@# a unit of the stack with this name is named, and not restarted
	-$(IF_BOOTED) { $(INSTALL_VENV)/bin/retrain-worker check --unit && \
	    systemctl try-restart quantum-retraining-worker.service; }
	@echo 'installed; next: edit /etc/quantum/retraining-worker.env, then'
	@echo '  retrain-worker check && systemctl enable --now quantum-ai-engine-restart.path quantum-retraining-worker'

uninstall:  ## as root: removes all but settings, data, models, state and the user; restores owners and modes
	@# not a unit of the stack with this name
	$(if $(DESTDIR),,-$(IF_BOOTED) { $(INSTALL_VENV)/bin/retrain-worker check --unit && \
	    systemctl disable --now quantum-retraining-worker.service; systemctl disable --now quantum-ai-engine-restart.path; })
	$(if $(DESTDIR),,$(INSTALL_VENV)/bin/retrain-worker access restore)
	rm -f $(addprefix $(LIB)/systemd/system/,$(UNITS)) \
	    $(LIB)/systemd/catalog/retrain-worker.catalog $(LIB)/sysusers.d/quantum-retraining-worker.conf \
	    $(LIB)/tmpfiles.d/quantum-retraining-worker.conf $(DESTDIR)$(PREFIX)/bin/retrain-worker
	rm -rf $(SHARE) $(DESTDIR)$(INSTALL_VENV)
	$(if $(DESTDIR),,$(IF_BOOTED) systemctl daemon-reload; journalctl --update-catalog)
	@echo 'kept: /etc/quantum, /var/lib/quantum-retraining-worker, MODEL_PATH, CHECKPOINT_PATH, the user quantum-retrain'
	@ls /etc/systemd/system/*.retired 2>/dev/null | sed 's/\(.*\)\.retired/the former unit: mv \1.retired \1/'

wheelhouse:  ## in build/wheelhouse, for `make install WHEELHOUSE=DIR` on a host without a network
	$(PYTHON) -m venv build/venv-wheels
	build/venv-wheels/bin/pip wheel --quiet --disable-pip-version-check --wheel-dir build/wheelhouse \
	    --constraint constraints.txt $(TORCH) '.[daemon,postgres]'

deb:  ## a Debian package in build/
	$(PYTHON) -m venv build/venv-wheels
	systemd/build-deb build/venv-wheels/bin/pip $(VERSION)

clean:  ## remove what set-up and runs have created
	rm -rf $(VENV) demo-home build dist mutants *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
