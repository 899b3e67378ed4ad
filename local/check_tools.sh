#!/bin/sh
# Says in plain words what this machine lacks, all at once, before anything is installed.
# $1 is a Python of 3.11 or newer, or nothing if none was found.
problems=0
problem() {
  printf '%s\n' "$1" >&2
  problems=1
}

if [ -z "$1" ]; then
  problem "Python 3.11 or newer is needed and was not found. Install it, or say where it is: make PYTHON=/path/to/python3.12 ..."
elif ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
  problem "Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv"
fi

if ! command -v node >/dev/null; then
  problem "Node.js 20 or newer is needed and was not found. Install it from your package manager or nodejs.org."
elif ! node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)'; then
  problem "Node.js 20 or newer is needed; the one found is $(node --version)."
fi

command -v npm >/dev/null || problem "npm is needed and was not found. It comes with Node.js; on Debian and Ubuntu: apt install npm"

exit $problems
