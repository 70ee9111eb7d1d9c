# See README.md. Every target prepares what it needs; deploy/dev/bootstrap says what that is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
PATH := $(PATH):/usr/sbin:/sbin
export PATH

BIN := .venv/bin
CODE := $(wildcard xenflow xenflow_client xenflow_server xenflow_app qos_controller xenflow_lab bench tests deploy setup.py)
ROUNDS := 10
# Pure ones, and those that need root, fastest first.
UNIT := $(wildcard tests/unit tests/fuzz tests/scenarios)
SUITES := $(wildcard tests/contract) $(if $(POX_HOME),$(wildcard tests/pox)) $(wildcard tests/lab)

.PHONY: demo test check lint bench figures test-pox test-kernel test-vms test-xen deb clean

demo: ## a lab in action: `make demo [CONTROLLER=pox]`
	@deploy/dev/bootstrap lab
	@$(BIN)/python -m xenflow_lab.demo $(if $(CONTROLLER),--controller $(CONTROLLER))

test: ## everything that can run here
	@deploy/dev/bootstrap lab
	@$(MAKE) lint
	@$(if $(POX_HOME),,echo "POX_HOME is not set: the tests of the POX component are left out")
	@$(BIN)/pytest -q -n auto $(UNIT)
	@$(BIN)/pytest $(SUITES)

check: ## format, lint, types, import rules, unit tests: under a minute, no root needed
	@deploy/dev/bootstrap check
	@$(MAKE) lint
	@$(BIN)/pytest -q -n auto $(UNIT)

lint:
	@$(BIN)/ruff format --check --quiet $(CODE)
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo

bench: ## figures with their peers: `make bench [ONLY=name]`
	@deploy/dev/bootstrap lab
	@$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY))

figures: ## the paper's figures: `make figures [ROUNDS=10]`
	@deploy/dev/bootstrap lab
	@$(BIN)/python -m bench.figures --rounds $(ROUNDS)

test-pox: ## the POX component on the POX in POX_HOME
	@if [ -z "$(POX_HOME)" ]; then \
	    echo "POX_HOME is not set. Get POX: git clone -b halosaur https://github.com/noxrepo/pox ~/pox;" \
	         "then: make test-pox POX_HOME=~/pox" >&2; exit 2; fi
	@deploy/dev/bootstrap lab
	@POX_HOME=$(POX_HOME) $(BIN)/pytest tests/pox

test-kernel: ## the kernel's datapath, our packages under systemd, a node's Ansible role, in an emulated machine; logs stay in build/machines
	@deploy/dev/bootstrap vms
	@$(BIN)/pytest -s -o faulthandler_timeout=3600 tests/machines

test-vms: ## routers as virtual machines, 5 minutes on two quiet cores; logs stay in build/vms if it fails
	@deploy/dev/bootstrap vms
	@XENFLOW_VMS=1 $(BIN)/pytest -s tests/vms/test_network.py tests/vms/test_migration.py tests/vms/test_hypervisor.py

test-xen: ## two emulated Xen hosts: machines by xl and libvirt, migrations, upgrade, reboot; half an hour on two quiet cores; logs of a failure in build/xen
	@deploy/dev/bootstrap vms
	@XENFLOW_XEN=1 $(BIN)/pytest -s -o faulthandler_timeout=7200 tests/xen

deb: ## Debian packages in dist/
	@deploy/dev/bootstrap check
	@$(BIN)/python deploy/deb/build.py

clean:
	@rm -rf .venv build dist bench/out *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
