#!/bin/sh
# Makes $VENV and installs a lock file into it: sh deploy/install.sh [requirements.lock]. Called by `make setup`
# and, with requirements-dev.lock, by `make test`.
#
# TORCH=auto: on Linux without an NVIDIA driver PyTorch's CPU wheels (200 MB) when PyTorch's own index answers,
# else the ordinary ones (5 GB on Linux, with CUDA); what is installed stays. TORCH=cpu or TORCH=cuda decides by hand,
# and replaces the other. torchvision comes from where torch comes from: one of the other's does not load.
set -eu
VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-auto}
LOCK=${1:-requirements.lock}

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

has_torch() { "$VENV/bin/python" -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null; }
is_cpu() {
    "$VENV/bin/python" -c "import importlib.metadata as m; raise SystemExit('+cpu' not in m.version('$1'))" 2>/dev/null
}
is_cpu_torch() { is_cpu torch; }

torch_cpu() {
    pins=$(grep -E '^(torch|torchvision)==' "$LOCK" | cut -d' ' -f1)
    replace=
    for package in torch torchvision; do
        # The ordinary build's version satisfies the pin too.
        is_cpu "$package" || replace="$replace --reinstall-package $package"
    done
    # Answers or not: no retries and a short limit, so that a closed network costs seconds.
    # shellcheck disable=SC2086 # $replace and $pins are meant to split
    UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=0 \
        uv pip install --quiet --python "$VENV/bin/python" --no-deps --torch-backend cpu $replace $pins 2>/dev/null
}

case "$TORCH" in
cpu) torch_cpu || { echo "error: TORCH=cpu, but PyTorch's own index does not answer; use TORCH=cuda" >&2; exit 1; } ;;
cuda) if is_cpu_torch; then uv pip uninstall --quiet --python "$VENV/bin/python" torch torchvision; fi ;;
auto)
    if [ "$(uname -s)" = Linux ] && ! has_nvidia && { is_cpu_torch || ! has_torch; }; then
        echo "installing PyTorch's CPU wheels, if its own index answers (TORCH=cuda for the others)"
        torch_cpu || echo "it does not: installing the ordinary ones (5 GB)"
    fi ;;
*) echo "error: TORCH=$TORCH is none of auto, cpu, cuda" >&2; exit 1 ;;
esac

# The CPU build has a local version (2.15.0+cpu), which satisfies the lock's ==2.15.0 and is left alone; its CUDA
# packages are then not needed.
if is_cpu_torch; then
    grep -vE '^(nvidia-(cu|n)|cuda-|triton)' "$LOCK" >"$VENV/requirements.txt"
else
    cp "$LOCK" "$VENV/requirements.txt"
fi
echo "installing from $LOCK"
# Bytecode now: otherwise every first start of a process compiles 10,000 files for itself.
uv pip install --quiet --python "$VENV/bin/python" --compile-bytecode --requirement "$VENV/requirements.txt"
uv pip install --quiet --python "$VENV/bin/python" --no-deps --editable .
