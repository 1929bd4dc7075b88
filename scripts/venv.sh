# shellcheck shell=bash
# Sourced by the other scripts: a virtual environment in .venv that holds ndserve with the extras asked for.
#
#   ensure_venv EXTRA[,EXTRA...]     makes or completes .venv; a second call with nothing changed is instant
#
# The interpreter is $PYTHON, or the newest of python3.14 to python3.11 and python3 on the PATH.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

die() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed and none was found (set PYTHON=/path/to/python3)"
}

make_venv() {
    local python
    python=$(find_python)
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv --clear .venv
        return
    fi
    # Debian ships venv apart from Python.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
        python3 -m venv --clear .venv
    else
        die "this Python has no venv module: install it first (Debian: apt-get install python3-venv)"
    fi
}

ensure_venv() {
    local extras=$1 wanted
    wanted="$extras $(cksum <pyproject.toml)"
    if [ -x .venv/bin/python ] && grep -qxF "$wanted" .venv/installed 2>/dev/null; then
        return
    fi
    if [ ! -x .venv/bin/python ]; then
        echo "making .venv ..." >&2
        make_venv
    fi
    echo "installing ndserve[$extras] into .venv; the first time takes a minute ..." >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
    # Extras installed earlier stay installed, unless pyproject.toml has changed since.
    grep -F "$(cksum <pyproject.toml)" .venv/installed 2>/dev/null >.venv/installed.new || true
    echo "$wanted" >>.venv/installed.new
    mv .venv/installed.new .venv/installed
}
