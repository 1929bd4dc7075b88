"""The fenced blocks of the documentation, and what to do with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
WRITTEN_FOR = "127.0.0.1:8076"
"""Host and port that the documentation uses, with a scheme and without."""

_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (?P<path>[\w./-]+\.(?:py|toml))\n")


@dataclass(frozen=True)
class Block:
    """A fenced block; `printed` is the `text` block that follows it with nothing but blank lines between."""

    source: str
    line: int
    language: str
    text: str
    printed: str | None

    @property
    def file(self) -> str | None:
        """The path that the block's first line names: such a block is a file, not a command."""
        match = _FILE.match(self.text)
        return match["path"] if match else None

    def __str__(self) -> str:
        return f"{self.source}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text()
    matches = list(_BLOCK.finditer(text))
    blocks = []
    for match, following in zip(matches, [*matches[1:], None], strict=True):
        printed = None
        if following and following["language"] == "text" and not text[match.end() : following.start()].strip():
            printed = following["text"]
        line = text.count("\n", 0, match.start()) + 1
        blocks.append(Block(path.name, line, match["language"], match["text"], printed))
    return blocks


def commands_of(path: Path) -> list[Block]:
    """The blocks that a reader runs."""
    return [block for block in blocks_of(path) if block.language in ("sh", "python") and block.file is None]


def write_files(path: Path, folder: Path) -> list[str]:
    """Write the blocks that are files below `folder`. Gives their paths."""
    files = {block.file: block.text for block in blocks_of(path) if block.file is not None}
    for name, text in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return list(files)


def agrees(printed: str, expected: str) -> bool:
    """Whether the output is the documented one, in which `…` stands for anything within a line."""
    pattern = ".*?".join(map(re.escape, expected.strip().split("…")))
    return re.fullmatch(pattern, printed.replace("\r", "").strip()) is not None


def clean_environment() -> dict[str, str]:
    """The environment without options of ndserve and without a proxy between a command and the server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NDSERVE_", "PYTEST_"))}
    python = str(Path(sys.executable).parent)
    return {**kept, "no_proxy": "*", "NO_PROXY": "*", "PATH": f"{python}{os.pathsep}{kept.get('PATH', '')}"}


def run_block(block: Block, address: str) -> subprocess.CompletedProcess[str]:
    """Run a command block from the checkout, against the server at `address`."""
    text = block.text.replace(WRITTEN_FOR, address.removeprefix("http://"))
    command = ["bash", "-euo", "pipefail", "-c", text] if block.language == "sh" else [sys.executable, "-c", text]
    environment = {**clean_environment(), "NDSERVE_URL": address}
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )


@contextmanager
def real_server(options: Mapping[str, Path]) -> Iterator[str]:
    """A server process on the CPU and a free port, with webhooks and data of its own; gives its address."""
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "ndserve", "serve", "--device", "cpu", "--port", "0", "--data-dir", data]
        command += ["--webhook-secret", "a secret of the tests, long enough"]
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        with _ready(command) as address:
            yield address


@contextmanager
def _ready(command: list[str]) -> Iterator[str]:
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        try:
            said = []
            for line in server.stderr:
                said.append(line)
                if match := re.search(r"ready: (http://\S+)", line):
                    yield match[1]
                    break
            else:
                raise AssertionError("the server did not start:\n" + "".join(said))
        finally:
            server.terminate()
            server.communicate(timeout=30)
