#!/bin/sh
# Makes $VENV and installs requirements.lock into it. Called by `make setup`.
#
# TORCH=auto: on Linux without an NVIDIA driver PyTorch's CPU wheels (200 MB) when PyTorch's own index answers,
# else the ordinary ones (5 GB on Linux, with CUDA). TORCH=cpu or TORCH=cuda decides by hand.
set -eu
VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-auto}

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $PYTHON is $("$PYTHON" --version 2>&1), Emend needs Python 3.11 or newer; set PYTHON=python3.12, say" >&2
    exit 1
}
command -v git >/dev/null || {
    echo "error: git is not installed; the homes of the models are git repositories" >&2
    exit 1
}
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV" || {
    echo "error: python -m venv failed; on Debian or Ubuntu install python3-venv" >&2
    exit 1
}
[ -x "$VENV/bin/uv" ] || "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv

uv() { "$VENV/bin/uv" "$@"; }
has_nvidia() { [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null 2>&1; }

torch_cpu() {
    pin=$(grep -E '^torch==' requirements.lock | cut -d' ' -f1)
    # Answers or not: no retries and a short limit, so that a closed network costs seconds.
    UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=0 \
        uv pip install --quiet --python "$VENV/bin/python" --no-deps --torch-backend cpu "$pin" 2>/dev/null
}

case "$TORCH" in
cpu) torch_cpu || { echo "error: TORCH=cpu, but PyTorch's own index does not answer; use TORCH=cuda" >&2; exit 1; } ;;
cuda) ;;
auto)
    if [ "$(uname -s)" = Linux ] && ! has_nvidia; then
        echo "installing PyTorch's CPU wheels, if its own index answers (TORCH=cuda for the others)"
        torch_cpu || echo "it does not: installing the ordinary ones (5 GB)"
    fi ;;
*) echo "error: TORCH=$TORCH is none of auto, cpu, cuda" >&2; exit 1 ;;
esac

# The CPU build has a local version (2.15.0+cpu), which satisfies the lock's ==2.15.0 and is left alone; its CUDA
# packages are then not needed.
if "$VENV/bin/python" -c 'import importlib.metadata as m; raise SystemExit("+cpu" not in m.version("torch"))' 2>/dev/null
then
    grep -vE '^(nvidia-|cuda-|triton)' requirements.lock >"$VENV/requirements.txt"
else
    cp requirements.lock "$VENV/requirements.txt"
fi
echo "installing from requirements.lock"
# Bytecode now: otherwise every first start of a process compiles 10,000 files for itself.
uv pip install --quiet --python "$VENV/bin/python" --compile-bytecode --requirement "$VENV/requirements.txt"
uv pip install --quiet --python "$VENV/bin/python" --no-deps --editable .
