#!/usr/bin/env bash
# Every row of Table 1. See --help, and the README beside this file.
# Uses the active virtual environment if it fits, else makes .venv in the checkout.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
# shellcheck source=../../scripts/venv.sh
source "$root/scripts/venv.sh"
cpu=()
for argument in "$@"; do
    case "$argument" in
        --cpu) cpu=(--cpu) ;;
        -h | --help) exec python3 "$root/examples/multi30k/table1.py" --help ;;  # needs no environment
    esac
done
vtlm_activate_venv ${cpu[@]+"${cpu[@]}"} ""
exec "$PYTHON" "$root/examples/multi30k/table1.py" "$@"
