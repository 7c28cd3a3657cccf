# Find or make the virtual environment of a checkout. To be sourced by bash scripts, not run.
#
#   source scripts/venv.sh
#   vtlm_activate_venv [--cpu] EXTRAS      # EXTRAS: of setup.cfg, e.g. test,plots
#
# Sets PYTHON to the python of the environment, and puts its commands (fairseq-train, ...) on PATH:
# the active environment, if it can import what the package and EXTRAS need, else .venv in the checkout, which is
# made if need be. --cpu takes PyTorch's CPU build, a much smaller download, for an environment made here.

vtlm_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# The modules that the package and the extras given need must all be there, at versions that setup.cfg allows. Those
# whose compiled code may not fit are imported; fairseq would take seconds more.
_vtlm_ready() {
    "$1" - "$2" "$vtlm_root/vtlm_fairseq/stack.py" <<'PY' >/dev/null 2>&1
import importlib.util as util
import runpy
import sys

runpy.run_path(sys.argv[2])["check_stack"]()
needed = {
    "": "torch fairseq hydra bitarray numpy h5py omegaconf sacrebleu sacremoses sentencepiece".split()
    + "subword_nmt tqdm filelock yaml".split(),
    "test": "pytest xdist hypothesis PIL ruff lmdb msgpack pyarrow".split(),
    "formats": ["lmdb", "msgpack", "pyarrow"],
    "ci": ["playwright", "tensorboard"],
    "plots": ["matplotlib"],
    "docs": ["material"],
    "notebook": ["nbclient", "ipykernel", "matplotlib"],
    "completion": ["argcomplete"],
    "extract": ["ai_edge_litert", "PIL"],
    "tensorflow": ["tensorflow", "PIL"],
    "torchvision": ["torchvision", "PIL"],
    "patches": ["transformers", "PIL"],
}
for extra in ("", *filter(None, sys.argv[1].split(","))):
    for module in needed[extra]:
        assert util.find_spec(module), module
import torch, h5py
PY
}

# What a finished environment was made for; a folder that was moved or a changed requirement makes it anew.
_vtlm_stamp() {
    echo "$1"
    cat "$vtlm_root/setup.cfg" "$vtlm_root/constraints.txt"
}

_vtlm_find_python() {
    local name
    for name in python3.11 python3.12 python3 python; do
        # a shim on PATH may name a version that is not installed: ask it
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
            >/dev/null 2>&1; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

# PYTHONPATH: an environment that is not our own may lack this package, or hold that of another checkout.
_vtlm_use() {
    PYTHON="$1"
    export PYTHON
    PATH="$(dirname "$PYTHON"):$PATH"
    export PATH
    export PYTHONPATH="$vtlm_root${PYTHONPATH:+:$PYTHONPATH}"
}

vtlm_activate_venv() {
    local cpu=0 extras python venv="$vtlm_root/.venv" size="about 3 GB"
    if [ "${1:-}" = --cpu ]; then
        cpu=1
        size="about 500 MB"
        shift
    fi
    extras="${1:-}"
    python="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}/bin/python"
    if [ "$python" != "$venv/bin/python" ] && _vtlm_ready "$python" "$extras"; then
        _vtlm_use "$python"
        return 0
    fi
    if _vtlm_stamp "$venv" | cmp -s - "$venv/.complete" && _vtlm_ready "$venv/bin/python" "$extras"; then
        _vtlm_use "$venv/bin/python"
        return 0
    fi
    if ! python="$(_vtlm_find_python)"; then
        echo "error: Python 3.11 or 3.12 with its venv module is needed (Debian, Ubuntu: apt install" \
            "python3.11 python3.11-venv; conda: conda create -n vtlm python=3.11)" >&2
        return 1
    fi
    echo "Installing into $venv with $python: $size to download, most of it PyTorch" \
        "(--cpu asks for its small CPU build)." >&2
    _vtlm_install "$python" "$venv" "$extras" "$cpu" || {
        echo "error: the installation into $venv failed, see above; run again to go on" >&2
        return 1
    }
    _vtlm_use "$venv/bin/python"
}

_vtlm_install() {
    local python="$1" venv="$2" extras="$3" cpu="$4" pip
    pip=("$venv/bin/python" -m pip --disable-pip-version-check)
    if [ "$(head -n 1 "$venv/.complete" 2>/dev/null)" != "$venv" ]; then
        "$python" -m venv --clear "$venv" || return 1
        echo "$venv" >"$venv/.complete"
    fi
    if [ "$cpu" = 1 ]; then
        "${pip[@]}" install -c "$vtlm_root/constraints.txt" \
            --index-url https://download.pytorch.org/whl/cpu torch torchaudio || return 1
    fi
    (cd "$vtlm_root" && "${pip[@]}" install -c constraints.txt -e ".${extras:+[$extras]}") || return 1
    _vtlm_ready "$venv/bin/python" "$extras" || return 1
    _vtlm_stamp "$venv" >"$venv/.complete"
}
