"""Every command in README.md, docs/http.md and docs/open_inference.md does what it says there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ndserve import errors
from ndserve.settings import Settings
from tests.docs.blocks import (
    DOCS,
    README,
    ROOT,
    Block,
    agrees,
    blocks_of,
    clean_environment,
    commands_of,
    real_server,
    run_block,
    write_files,
)

ELSEWHERE = {
    "./scripts/serve\n": "tests/e2e starts it as the README says",
    "./scripts/test\n": "it is what runs this test",
    "./scripts/serve --processes my/processes --routes my/routes\n": "the fixture `server` starts the same options",
    ".venv/bin/python -m pytest my\n": "test_the_tests_of_the_readme_pass runs the same files",
}
"""The commands that build or start something, and which test covers each."""

COMMANDS = [*commands_of(README), *commands_of(DOCS / "http.md"), *commands_of(DOCS / "open_inference.md")]
RUN_HERE = [block for block in COMMANDS if block.text not in ELSEWHERE]


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the README tells a user to write."""
    folder = tmp_path_factory.mktemp("readme")
    write_files(README, folder)
    return folder / "my"


@pytest.fixture(scope="module")
def server(user_folder: Path) -> Iterator[str]:
    with real_server({"processes": user_folder / "processes", "routes": user_folder / "routes"}) as address:
        yield address


@pytest.mark.parametrize("block", RUN_HERE, ids=str)
def test_a_command_prints_what_the_documentation_shows(block: Block, server: str) -> None:
    done = run_block(block, server)
    assert done.returncode == 0, done.stderr
    assert block.printed is not None, f"{block} shows no output"
    assert agrees(done.stdout, block.printed), f"{block} printed\n{done.stdout}"


def test_every_command_that_is_not_run_here_is_still_in_the_readme() -> None:
    assert ELSEWHERE.keys() <= {block.text for block in COMMANDS}


def test_every_block_has_a_language_that_these_tests_know() -> None:
    for path in (README, *DOCS.glob("*.md")):
        fences = sum(line.startswith("```") for line in path.read_text().splitlines())
        assert fences == 2 * len(blocks_of(path)), f"{path.name} has a fence without a language"
        unknown = {block.language for block in blocks_of(path)} - {"sh", "python", "text", "toml", "ini", "nginx"}
        assert not unknown, f"{path.name} has blocks of {unknown}"


def test_the_tests_of_the_readme_pass(user_folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "my"]
    done = subprocess.run(
        command, cwd=user_folder.parent, env=clean_environment(), capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_link_to_a_file_or_a_heading_of_the_checkout_leads_somewhere() -> None:
    for path in (README, *DOCS.glob("*.md")):
        prose = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"models\[[^]]*\]", "", prose)):
            if "://" in link:
                continue
            file, _, heading = link.partition("#")
            target = path.parent / file if file else path
            assert target.exists(), f"{path.name} links to {link}"
            assert not heading or heading in _headings(target), f"{path.name} links to {link}"


def _headings(path: Path) -> set[str]:
    """The headings of a file as the fragments that link to them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_http_reference_names_every_error_code() -> None:
    text = (DOCS / "http.md").read_text()
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {each.code for each in classes if issubclass(each, errors.NdserveError)}
    assert [code for code in sorted(codes - {"startup"}) if f"`{code}`" not in text] == []


def test_the_deployment_guide_names_every_option() -> None:
    text = (DOCS / "deployment.md").read_text()
    options = [f"`--{name.replace('_', '-')}`" for name in Settings.model_fields]
    assert [option for option in options if option not in text] == []


def test_the_readme_names_no_option_that_does_not_exist() -> None:
    options = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    table = README.read_text().partition("## Options")[2].partition("## Answers")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in row.split("`")[1::2]}
    assert named
    assert named <= options


def test_the_example_configuration_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_files(DOCS / "deployment.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("NDSERVE_")]:
        monkeypatch.delenv(name)
    settings = Settings()
    assert settings.preload == ["digits"]
    assert (ROOT / "models" / settings.preload[0]).is_dir()
