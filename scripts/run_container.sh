#!/usr/bin/env bash
# Runs ndserve in a container; --help tells how.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../docker/engine.sh"

usage() {
    cat <<'END'
Usage: scripts/run_container.sh [cuda|cpu] [options] [-- NDSERVE OPTIONS]

Runs an image that scripts/build_image.sh has built. Without cuda or cpu it takes cuda where a GPU is present
(nvidia-smi works), and cpu otherwise. The image cuda on a machine without a GPU serves on the CPU.

Options, each with the environment variable that stands for it:
  -t, --image NAME:TAG     the image                             NDSERVE_IMAGE      (ndserve:cuda or ndserve:cpu)
  -n, --name NAME          the container's name                  NDSERVE_CONTAINER  (ndserve)
  -p, --publish ADDR:PORT  where it listens on this machine      NDSERVE_PUBLISH    (127.0.0.1:8076)
  -m, --models DIR         the models, mounted read-only         NDSERVE_MODELS_DIR (models of this checkout)
      --processes DIR      your array functions, read-only       NDSERVE_PROCESSES_DIR (none)
      --keys FILE          API keys, read-only; see below        NDSERVE_KEYS_FILE  (none)
      --data VOLUME|DIR    what the service keeps                NDSERVE_DATA       (the volume ndserve-data);
                           a folder must belong to uid 10001
  -d, --detach             in the background, started again after a crash or a reboot
      --engine NAME        docker or podman                      ENGINE             (the first of the two that works)
      --dry-run            print the command, run nothing
  -h, --help               this text
What follows -- goes to `ndserve serve` as it is; every option of it is also a variable NDSERVE_... in the container.

The container's root is read-only, it has no capabilities, and its service runs as uid 10001. Only this machine reaches
it; `--publish 0.0.0.0:8076` lets every machine that reaches this one in: give it keys.

Keys: `ndserve key alice --role manage >> keys.txt` makes one, and with `--keys keys.txt` every request but health needs
one. Without, everybody may run tasks and nobody may manage models, since the server inside listens on 0.0.0.0.
`docker kill --signal HUP NAME` has a changed file read again.

Examples:
  scripts/run_container.sh                              # in the foreground; Ctrl-C drains and stops it
  scripts/run_container.sh cpu --detach --models /srv/models
  scripts/run_container.sh -- --device cuda             # refuse to start without a GPU
  curl http://127.0.0.1:8076/health
  docker stop ndserve                                   # finishes what runs, at most 30 s
END
}

# A file of this machine as an absolute path, which a mount must be.
file() {
    [[ -f "$1" && -r "$1" ]] || fail "no such file: $1"
    echo "$(folder "$(dirname "$1")")/$(basename "$1")"
}

# A folder of this machine as an absolute path, which a mount must be.
folder() {
    [[ -d "$1" ]] || fail "no such folder: $1"
    (cd "$1" && pwd)
}

variant=
image="${NDSERVE_IMAGE:-}"
name="${NDSERVE_CONTAINER:-ndserve}"
publish="${NDSERVE_PUBLISH:-127.0.0.1:8076}"
models="${NDSERVE_MODELS_DIR:-$(dirname "${BASH_SOURCE[0]}")/../models}"
processes="${NDSERVE_PROCESSES_DIR:-}"
keys="${NDSERVE_KEYS_FILE:-}"
data="${NDSERVE_DATA:-ndserve-data}"
detach=
dry_run=
while (($#)); do
    case "$1" in
        cuda | cpu) variant="$1" ;;
        -t | --image) image="${2:?"$1 wants a value"}" && shift ;;
        -n | --name) name="${2:?"$1 wants a value"}" && shift ;;
        -p | --publish) publish="${2:?"$1 wants a value"}" && shift ;;
        -m | --models) models="${2:?"$1 wants a value"}" && shift ;;
        --processes) processes="${2:?"$1 wants a value"}" && shift ;;
        --keys) keys="${2:?"$1 wants a value"}" && shift ;;
        --data) data="${2:?"$1 wants a value"}" && shift ;;
        -d | --detach) detach=yes ;;
        --engine) ENGINE="${2:?"$1 wants a value"}" && shift ;;
        --dry-run) dry_run=yes ;;
        -h | --help) usage && exit ;;
        --) shift && break ;;
        *) fail "unknown argument '$1'; --help lists them" 2 ;;
    esac
    shift
done

if nvidia-smi >/dev/null 2>&1; then
    gpu=yes
    variant="${variant:-cuda}"
else
    gpu=
    case "$variant" in
        "") variant=cpu && echo "No GPU here (nvidia-smi does not work): running the cpu image, on the CPU." ;;
        cuda) echo "No GPU here (nvidia-smi does not work): running the cuda image without --gpus, on the CPU." ;;
    esac
fi
image="${image:-ndserve:$variant}"
models="$(folder "$models")"
[[ -z "$processes" ]] || processes="$(folder "$processes")"
[[ -z "$keys" ]] || keys="$(file "$keys")"
[[ "$data" != */* ]] || data="$(folder "$data")"

if [[ -n "$dry_run" ]]; then
    engine="${ENGINE:-docker}"
else
    engine="$(find_engine)"
    "$engine" image inspect "$image" >/dev/null 2>&1 ||
        fail "no image $image here: build it with scripts/build_image.sh $variant --image $image"
    if "$engine" container inspect "$name" >/dev/null 2>&1; then
        fail "a container '$name' is there already: '$engine start $name' starts it again, '$engine rm -f $name' removes it, --name takes another name"
    fi
fi

command=("$engine" run --name "$name" --publish "$publish:8076"
    --volume "$models:/srv/models:ro" --volume "$data:/srv/data"
    --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges
    # Longer than NDSERVE_DRAIN_SECONDS, or the engine kills what still runs.
    --stop-timeout 45)
[[ -z "$processes" ]] || command+=(--volume "$processes:/srv/processes:ro")
[[ -z "$keys" ]] || command+=(--volume "$keys:/srv/keys.txt:ro" --env NDSERVE_API_KEYS_FILE=/srv/keys.txt)
if [[ "$(basename "$engine")" == podman ]]; then
    # Without it SELinux forbids the mounts, and the GPU's devices.
    command+=(--security-opt label=disable)
    [[ -z "$gpu" || "$variant" != cuda ]] || command+=(--device nvidia.com/gpu=all)
elif [[ -n "$gpu" && "$variant" == cuda ]]; then
    command+=(--gpus all)
fi
if [[ -n "$detach" ]]; then
    command+=(--detach --restart unless-stopped)
else
    command+=(--rm)
fi
command+=("$image")
(($# == 0)) || command+=(serve "$@")

printf '%q ' "${command[@]}" && echo
[[ -z "$dry_run" ]] || exit 0
exec "${command[@]}"
