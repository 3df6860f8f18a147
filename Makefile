# `make demo` and `make test` create the virtual environment that they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
HOME_DIR ?= demo-home

.DEFAULT_GOAL := help
.PHONY: help demo test coverage gpu-check docs lint lock sbom test-fast test-fuzz test-faults test-python mutants clean install install-venv install-files activate uninstall wheelhouse deb release test-release

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
# one for each unit, made by systemd/instance.sed
TEMPLATES     := $(foreach unit,$(UNITS),$(basename $(unit))@$(suffix $(unit)))
# written by `retrain-worker completion all`
SHELL_FILES   := bash-completion/completions/retrain-worker zsh/site-functions/_retrain-worker \
                 fish/vendor_completions.d/retrain-worker.fish man/man1/retrain-worker.1
VERSION       := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' retrain_worker/__init__.py)
RELEASE       := build/release
# setuptools would put modules that exist no more into the wheel
NO_LEFTOVERS  := rm -rf build/lib build/bdist.*
# $(call tested,PYTHON,PATHS): what fails beside other tests runs once more alone; what passes then stands above as failed.
tested         = $(1) -m pytest -q -n 3 --dist loadscope $(2) || \
    { test $$? = 1 && $(1) -m pytest -q -x --last-failed --last-failed-no-failures none $(2); }
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

test: $(VENV)/.installed lint  ## every test
	$(call tested,$(BIN)/python)

# twice the time of `make test`
coverage: $(VENV)/.installed  ## every test, and which lines of the product they run
	mkdir -p build/coverage
	COVERAGE_FILE=$(CURDIR)/build/coverage/data $(BIN)/python -m pytest -n 2 --dist loadscope --cov --cov-report=term -q

test-fast: $(VENV)/.installed  ## the tests that need no worker process and no server
	$(BIN)/python -m pytest -q tests/unit tests/architecture

test-fuzz: $(VENV)/.installed  ## a million mutated inputs at the boundaries: Redis, files, table, settings (about ten minutes)
	$(BIN)/python -m tests.fuzz

test-faults: $(VENV)/.installed  ## the swap and its recovery under every injected fault (needs strace; about an hour)
	$(BIN)/python -m tests.faults.strace_sweep
	$(BIN)/python -m tests.faults.power_loss

# torch has small builds for few versions of Python: without it, tests that need it are skipped
test-python: $(VENV)/.installed  ## unit and contract tests on another Python: VERSION=3.13
	python=$$(UV=$(BIN)/uv .ci/find-python $(VERSION)) && \
	    $(BIN)/uv venv --quiet --clear --python $$python build/venv-$(VERSION)
	echo torch | $(BIN)/uv pip install --quiet --python build/venv-$(VERSION) --excludes /dev/stdin \
	    --constraint constraints.txt --editable '.[test]'
	$(call tested,build/venv-$(VERSION)/bin/python,tests/unit tests/contract)

# `mutmut show NAME` prints a mutant
mutants: $(VENV)/.installed  ## mutation tests of domain and stages (about an hour of one CPU)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt mutmut==3.8.1
	PATH=$(CURDIR)/$(BIN):$$PATH mutmut run --max-children 1
	PATH=$(CURDIR)/$(BIN):$$PATH mutmut results

# exit status 77: there is no GPU, nothing was checked
gpu-check: $(VENV)/.installed  ## on a machine with GPUs, under five minutes: fp32, bf16, a killed worker, canary, all GPUs
	$(BIN)/python benchmarks/gpu_check.py

docs: $(VENV)/.installed  ## the documents as a site, build/site/index.html; a broken link is an error
	$(BIN)/python -m tests.reference_pages
	$(BIN)/zensical build --clean --strict

lint: $(VENV)/.installed  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# For CPython 3.11 on Linux x86-64; torch for CPUs, which is not on PyPI. `pip install --require-hashes -r locks/daemon.txt`
lock: $(VENV)/.installed  ## locks/EXTRA.txt: every package of an extra, by version and hash
	for extra in base serving fetch signing daemon notify mlflow search postgres export; do \
	    echo '$(TORCH)+cpu' | $(BIN)/uv pip compile --quiet --no-annotate --generate-hashes --python-version 3.11 \
	        --python-platform x86_64-manylinux_2_28 --constraint /dev/stdin --constraint constraints.txt \
	        --find-links $(or $(PIP_FIND_LINKS),https://download.pytorch.org/whl/cpu/torch/) \
	        $$(test $$extra = base || echo --extra $$extra) --custom-compile-command 'make lock' \
	        --output-file locks/$$extra.txt pyproject.toml || exit; \
	done

# the packages of a host with the daemon, as locked, and nothing else
sbom: $(VENV)/.installed  ## build/sbom.cdx.json: the packages of the daemon with versions and licences (CycloneDX 1.6)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/venv-sbom
	$(BIN)/uv pip install --quiet --python build/venv-sbom --require-hashes \
	    --find-links $(or $(PIP_FIND_LINKS),https://download.pytorch.org/whl/cpu/torch/) \
	    --requirements locks/daemon.txt --requirements locks/postgres.txt
	$(BIN)/uv pip install --quiet --python build/venv-sbom --no-deps .
	@# cyclonedx-py knows no dynamic version
	sed 's/^dynamic = .*/version = "$(VERSION)"/' pyproject.toml >build/pyproject.toml
	$(BIN)/uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py environment build/venv-sbom --pyproject build/pyproject.toml \
	    --mc-type application --spec-version 1.6 --output-reproducible --output-file build/sbom.cdx.json
	$(BIN)/python .ci/licences build/sbom.cdx.json

install: $(if $(DESTDIR),,install-venv) install-files $(if $(DESTDIR),,activate)  ## as root: user, environment, units; also upgrades

install-venv:
	@# the mark tells an environment of this program from another one
	test ! -e $(INSTALL_VENV) || test -e $(INSTALL_VENV)/.retrain-worker || \
	    { echo '$(INSTALL_VENV) was not made by this program: move it away' >&2; false; }
	test -x $(INSTALL_VENV)/bin/python || $(SYSTEM_PYTHON) -m venv $(INSTALL_VENV)
	touch $(INSTALL_VENV)/.retrain-worker
	$(PIP_INSTALL) $(TORCH)
	$(NO_LEFTOVERS)
	$(PIP_INSTALL) --constraint constraints.txt '$(if $(WHEELHOUSE),retrain_worker,.)[daemon,postgres]$(if $(WHEELHOUSE),==$(VERSION))'

install-files:
	install -d $(LIB)/systemd/system $(LIB)/systemd/catalog $(LIB)/sysusers.d \
	    $(LIB)/tmpfiles.d $(SHARE)/drop-ins $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(addprefix systemd/,$(UNITS)) $(LIB)/systemd/system
	for unit in $(UNITS); do \
	    sed -f systemd/instance.sed systemd/$$unit >"$(LIB)/systemd/system/$${unit%.*}@.$${unit##*.}" || exit; \
	done
	install -m 644 systemd/sysusers.conf $(LIB)/sysusers.d/quantum-retraining-worker.conf
	install -m 644 systemd/tmpfiles.conf $(LIB)/tmpfiles.d/quantum-retraining-worker.conf
	install -m 644 systemd/retrain-worker.catalog $(LIB)/systemd/catalog
	install -m 644 systemd/drop-ins/*.conf $(SHARE)/drop-ins
	install -m 644 README.md etc/quantum/retraining-worker.env $(SHARE)
	find docs -type f -exec install -D -m 644 '{}' '$(SHARE)/{}' ';'
	ln -sfn $(INSTALL_VENV)/bin/retrain-worker $(DESTDIR)$(PREFIX)/bin/retrain-worker

activate:
	systemd-sysusers $(LIB)/sysusers.d/quantum-retraining-worker.conf
	systemd-tmpfiles --create $(LIB)/tmpfiles.d/quantum-retraining-worker.conf
	@# the operator's file is never overwritten
	test -e /etc/quantum/retraining-worker.env || \
	    install -m 640 etc/quantum/retraining-worker.env /etc/quantum/retraining-worker.env
	-$(INSTALL_VENV)/bin/retrain-worker access grant
	journalctl --update-catalog
	-$(INSTALL_VENV)/bin/retrain-worker completion all --to $(PREFIX)/share
	$(IF_BOOTED) systemctl daemon-reload
	@# a unit of the stack with this name is named, and not restarted
	-$(IF_BOOTED) { $(INSTALL_VENV)/bin/retrain-worker check --unit && \
	    systemctl try-restart quantum-retraining-worker.service 'quantum-retraining-worker@*.service'; }
	@echo 'installed; next: edit /etc/quantum/retraining-worker.env, then'
	@echo '  retrain-worker check && systemctl enable --now quantum-ai-engine-restart.path quantum-retraining-worker'

uninstall:  ## as root: removes all but settings, data, models, state and the user; restores owners and modes
	@# not a unit of the stack with this name
	$(if $(DESTDIR),,-$(IF_BOOTED) { $(INSTALL_VENV)/bin/retrain-worker check --unit && \
	    systemctl disable --now quantum-retraining-worker.service; systemctl disable --now quantum-ai-engine-restart.path; \
	    systemctl stop 'quantum-retraining-worker@*.service' 'quantum-ai-engine-restart@*.path'; \
	    systemctl disable quantum-retraining-worker@.service quantum-ai-engine-restart@.path; })
	$(if $(DESTDIR),,$(INSTALL_VENV)/bin/retrain-worker access restore)
	rm -f $(addprefix $(LIB)/systemd/system/,$(UNITS) $(TEMPLATES)) \
	    $(LIB)/systemd/catalog/retrain-worker.catalog $(LIB)/sysusers.d/quantum-retraining-worker.conf \
	    $(LIB)/tmpfiles.d/quantum-retraining-worker.conf $(DESTDIR)$(PREFIX)/bin/retrain-worker \
	    $(addprefix $(DESTDIR)$(PREFIX)/share/,$(SHELL_FILES))
	rm -rf $(SHARE) $(DESTDIR)$(INSTALL_VENV)
	$(if $(DESTDIR),,$(IF_BOOTED) systemctl daemon-reload; journalctl --update-catalog)
	@echo 'kept: /etc/quantum, /var/lib/quantum-retraining-worker, MODEL_PATH, CHECKPOINT_PATH, the user quantum-retrain'
	@ls /etc/systemd/system/*.retired 2>/dev/null | sed 's/\(.*\)\.retired/the former unit: mv \1.retired \1/'

# by the Python that `make install` and the Debian package use: another one needs other packages
wheelhouse:  ## in build/wheelhouse, for `make install WHEELHOUSE=DIR` on a host without a network
	$(SYSTEM_PYTHON) -m venv --clear build/venv-wheels
	$(NO_LEFTOVERS) build/wheelhouse/retrain_worker-*
	build/venv-wheels/bin/pip wheel --quiet --disable-pip-version-check --wheel-dir build/wheelhouse \
	    --constraint constraints.txt $(TORCH) '.[daemon,postgres]'

deb:  ## a Debian package in build/
	$(PYTHON) -m venv build/venv-wheels
	$(NO_LEFTOVERS) build/wheel
	build/venv-wheels/bin/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	systemd/build-deb build/wheel/*.whl $(VERSION)

# the wheel is built from the sdist, and the Debian package holds that wheel
release: sbom  ## build/release: sdist, wheel, Debian package, SBOM and SHA256SUMS of this version
	rm -rf $(RELEASE)
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python \
	    --no-create-gitignore --out-dir $(RELEASE)
	systemd/build-deb $(RELEASE)/retrain_worker-$(VERSION)-py3-none-any.whl $(VERSION)
	mv build/retrain-worker_$(VERSION)_all.deb $(RELEASE)
	cp build/sbom.cdx.json $(RELEASE)/retrain_worker-$(VERSION).cdx.json
	cd $(RELEASE) && sha256sum * >SHA256SUMS && cat SHA256SUMS

test-release: release wheelhouse  ## each artifact of build/release installed without a network, and the demo run by it
	$(BIN)/python -m pytest -q -rA tests/release

clean:  ## remove what set-up and runs have created
	rm -rf $(VENV) demo-home build dist mutants *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
