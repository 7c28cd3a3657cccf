#!/usr/bin/env bash
# The quickstart: data, pre-training, fine-tuning, decoding, one table. See --help.
# Uses the active virtual environment if it fits, else makes .venv in the checkout.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
# shellcheck source=../../scripts/venv.sh
source "$root/scripts/venv.sh"
cpu=()
for argument in "$@"; do
    case "$argument" in
        --cpu) cpu=(--cpu) ;;
        -h | --help) exec python3 "$root/examples/quickstart/run.py" --help ;;  # needs no environment
    esac
done
vtlm_activate_venv ${cpu[@]+"${cpu[@]}"} ""
exec "$PYTHON" "$root/examples/quickstart/run.py" "$@"
