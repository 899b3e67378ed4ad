# Set everything up, run it, prove it. Every command sets up first what is missing.
.PHONY: setup tools run demo sweep test check bench catalogue clean

# The first Python that is new enough.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore

# Supabase and the API on this machine, until Ctrl-C
run: setup
	@exec .venv/bin/python -m local.run

# Connects real MCP servers and a vendor API through the running product, and checks what it says about them
demo: setup
	@exec .venv/bin/python -m local.demo

# Checks all integrations that are due, with progress; `make run` in another terminal does it every minute by itself
sweep: setup
	@exec .venv/bin/python -m local.sweep

test: setup .chalice/build/ready
	.venv/bin/pytest

check: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

bench: setup .chalice/build/ready
	.venv/bin/python -m bench $(ARGS)

# Compiles catalogue/*.yaml to supabase/seed.sql; ARGS="import server.json" and ARGS="own folder" as CONTRIBUTING.md tells
catalogue: setup
	.venv/bin/python -m catalogue $(ARGS)

# Forgets what `make run` has stored
clean:
	@if [ -x .venv/bin/python ]; then exec .venv/bin/python -m local.clean; else rm -rf .local; fi

setup: tools .venv/ready node_modules/.package-lock.json

tools:
	@sh local/check_tools.sh "$(PYTHON)"

.venv/ready: requirements.txt requirements-dev.txt | tools
	@echo "Installing Python packages (once, about a minute) ..."
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install -qq -r requirements-dev.txt
	@touch $@

node_modules/.package-lock.json: package.json package-lock.json | tools
	@echo "Installing Node packages (once, about a minute) ..."
	@npm ci --loglevel=error >/dev/null
	@touch $@

# AWS, as docs/operations.md tells: STAGE is one of .chalice/config.json, and AWS's credentials are those of your shell
.PHONY: deploy destroy package
STAGE ?= dev

deploy: setup
	@exec .venv/bin/python -m deploy up --stage $(STAGE) $(ARGS)

destroy: setup
	@exec .venv/bin/python -m deploy down --stage $(STAGE)

# CloudFormation instead
package: setup
	@exec .venv/bin/python -m deploy package --stage $(STAGE)

.chalice/build/ready: requirements.txt deploy/build.py | setup
	@.venv/bin/python -m deploy.build
	@touch $@
