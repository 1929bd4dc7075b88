#!/usr/bin/env bash
# Builds a container image of ndserve; --help tells how.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../docker/engine.sh"

usage() {
    cat <<'END'
Usage: scripts/build_image.sh [cuda|cpu] [options] [-- ENGINE OPTIONS]

Builds a container image of this checkout.

  cuda   from Dockerfile.cuda: NVIDIA GPU, CUDA 12 (3.7 GB); serves on the CPU where there is no GPU. The default.
  cpu    from docker/Dockerfile.cpu: CPU alone, 0.4 GB

Options, each with the environment variable that stands for it:
  -t, --image NAME:TAG   the image's name      NDSERVE_IMAGE      (ndserve:cuda or ndserve:cpu)
      --engine NAME      docker or podman      ENGINE             (the first of the two that works)
      --dry-run          print the command, run nothing
  -h, --help             this text
What follows -- goes to the engine's `build` as it is.

PIP_INDEX_URL, where set, is handed to the build. It stays in the image's history: it must hold no password.

Examples:
  scripts/build_image.sh                          # ndserve:cuda
  scripts/build_image.sh cpu -t registry.example/ndserve:1.0-cpu
  scripts/build_image.sh cuda -- --no-cache --build-arg BASE=python:3.13-slim-bookworm
Then: scripts/run_container.sh
END
}

variant=cuda
image="${NDSERVE_IMAGE:-}"
dry_run=
while (($#)); do
    case "$1" in
        cuda | cpu) variant="$1" ;;
        -t | --image) image="${2:?"$1 wants a value"}" && shift ;;
        --engine) ENGINE="${2:?"$1 wants a value"}" && shift ;;
        --dry-run) dry_run=yes ;;
        -h | --help) usage && exit ;;
        --) shift && break ;;
        *) fail "unknown argument '$1'; --help lists them" 2 ;;
    esac
    shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
dockerfile=Dockerfile.cuda
[[ "$variant" == cuda ]] || dockerfile=docker/Dockerfile.cpu
image="${image:-ndserve:$variant}"

if [[ -n "$dry_run" ]]; then
    engine="${ENGINE:-docker}"
else
    engine="$(find_engine)"
fi

command=("$engine" build --file "$dockerfile" --tag "$image")
# Podman's own format has no health check.
[[ "$(basename "$engine")" != podman ]] || command+=(--format docker)
[[ -z "${PIP_INDEX_URL:-}" ]] || command+=(--build-arg PIP_INDEX_URL)
if revision="$(git rev-parse HEAD 2>/dev/null)"; then
    command+=(--label "org.opencontainers.image.revision=$revision")
fi
command+=("$@" .)

printf '%q ' "${command[@]}" && echo
[[ -z "$dry_run" ]] || exit 0
"${command[@]}"
echo "Built $image. To run it: scripts/run_container.sh $variant --image $image"
