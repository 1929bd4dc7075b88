# shellcheck shell=bash
# Sourced by scripts/build_image.sh and scripts/run_container.sh: which container engine is there.

fail() {
    echo "${0##*/}: $1" >&2
    exit "${2:-1}"
}

# Prints the engine to use, or says why there is none.
find_engine() {
    local engine
    if [[ -n "${ENGINE:-}" ]]; then
        command -v "$ENGINE" >/dev/null || fail "ENGINE is '$ENGINE', which is not installed"
        echo "$ENGINE"
        return
    fi
    for engine in docker podman; do
        if command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1; then
            echo "$engine"
            return
        fi
    done
    if command -v docker >/dev/null; then
        fail "docker is installed, but its daemon does not answer ('docker info' says more): \
start it with 'systemctl start docker', or join the group docker"
    fi
    fail "neither docker nor podman is installed: install one, or name yours with ENGINE=..."
}
