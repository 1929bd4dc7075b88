"""What docs/deployment.md says of keys: its commands make a server that wants them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ndserve.client import Client, UnauthorizedError
from tests.docs.blocks import DOCS, ROOT, clean_environment, commands_of
from tests.e2e.running import started

COMMANDS = [line for block in commands_of(DOCS / "deployment.md") for line in block.text.splitlines()]
MAKING = [line for line in COMMANDS if line.startswith("ndserve key ")]
(SERVING,) = [line for line in COMMANDS if line.startswith("ndserve serve ")]
(CONTAINER,) = [line for line in COMMANDS if line.startswith("scripts/run_container.sh ")]


@pytest.fixture
def secrets(tmp_path: Path) -> list[str]:
    """The keys that the guide's commands have made, in `keys.txt` of the test's folder."""
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        ["bash", "-euc", "\n".join(MAKING[:2])],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return re.findall(r"nds_\S+", done.stderr)


def test_the_commands_of_the_guide_start_a_server_that_wants_the_keys_they_made(
    tmp_path: Path, secrets: list[str]
) -> None:
    words = shlex.split(SERVING.replace("keys.txt", str(tmp_path / "keys.txt")))[1:]
    own = ["--port", "0", "--device", "cpu", "--store", "memory"]
    with started([sys.executable, "-m", "ndserve", *words, *own]) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert len(secrets) == 2
        for secret in secrets:
            with Client(url, api_key=secret) as client:
                assert list(client.tasks()) == []
        with Client(url) as client, pytest.raises(UnauthorizedError):
            list(client.tasks())


def test_the_container_of_the_guide_gets_the_key_file(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("")
    command = CONTAINER.replace("keys.txt", str(tmp_path / "keys.txt"))
    done = subprocess.run(
        ["bash", "-euc", f"{command} --dry-run"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    words = shlex.split(done.stdout.splitlines()[-1])
    assert f"{tmp_path / 'keys.txt'}:/srv/keys.txt:ro" in words
    assert "NDSERVE_API_KEYS_FILE=/srv/keys.txt" in words
