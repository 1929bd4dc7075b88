"""Where an option can be given, which place wins, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from ndserve import cli
from ndserve.errors import StartupError
from ndserve.main import create_app
from ndserve.settings import Settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no option in the environment."""
    for name in [name for name in os.environ if name.startswith("NDSERVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(*arguments: str) -> Settings:
    return CliApp.run(Settings, cli_args=list(arguments))


def test_the_default_port_is_8076() -> None:
    assert read().port == 8076


def test_a_file_in_the_working_directory_sets_options(folder: Path) -> None:
    (folder / "ndserve.toml").write_text('port = 1111\nmax_body_bytes = "1MiB"\npreload = ["digits"]\n')
    settings = read()
    assert (settings.port, settings.max_body_bytes, settings.preload) == (1111, 1024**2, ["digits"])


def test_the_environment_wins_over_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ndserve.toml").write_text("port = 1111\nmax_batch_size = 7\n")
    monkeypatch.setenv("NDSERVE_PORT", "2222")
    settings = read()
    assert (settings.port, settings.max_batch_size) == (2222, 7)


def test_the_command_line_wins_over_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ndserve.toml").write_text("port = 1111\n")
    monkeypatch.setenv("NDSERVE_PORT", "2222")
    assert read("--port", "3333").port == 3333


def test_an_unknown_key_in_the_file_is_refused(folder: Path) -> None:
    (folder / "ndserve.toml").write_text("prot = 1111\n")
    with pytest.raises(ValidationError, match="prot"):
        read()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "70000"),
        ("--port", "-1"),
        ("--max-batch-size", "0"),
        ("--max-wait-ms", "-1"),
        ("--result-ttl", "0"),
        ("--max-body-bytes", "much"),
        ("--log-level", "loud"),
        ("--store", "paper"),
        ("--threads", "-1"),
    ],
)
def test_a_value_that_cannot_be_is_reported_with_its_option_and_exit_code_2(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", option, value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ndserve: {option}: ")
    assert repr(value) in line


@pytest.mark.parametrize(
    "option", ["--default-process", "--preload", "--device", "--models", "--processes", "--routes"]
)
def test_a_name_that_nothing_has_is_reported_in_one_line_with_exit_code_2(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "--device", "cpu", option, "nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ndserve: ")
    assert "nowhere" in line


def test_a_bad_line_in_the_file_is_reported_with_exit_code_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ndserve.toml").write_text("port = \n")
    assert cli.main(["serve"]) == 2
    assert "ndserve.toml" in capsys.readouterr().err


def test_options_reach_another_process_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(
        host="0.0.0.0",
        port=1234,
        api_keys_file=Path("keys.txt"),
        open_management=True,
        preload=["a", "b"],
        processes=Path("mine"),
        max_wait_ms=2.5,
        access_log=True,
        max_body_bytes=1000,
    )
    for name, value in given.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == given


def test_a_model_folder_that_was_named_must_be_there(folder: Path) -> None:
    with pytest.raises(StartupError, match="--models"):
        create_app(Settings(device="cpu", models=folder / "missing"))


def test_the_default_model_folder_need_not_be_there() -> None:
    assert create_app(Settings(device="cpu")).state.service.targets.broken == {}


def test_uvicorn_can_be_given_the_app_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from ndserve import main

    monkeypatch.setenv("NDSERVE_DEVICE", "cpu")
    monkeypatch.setenv("NDSERVE_MAX_QUEUE_TASKS", "17")
    assert main.app.state.service.bounds.tasks == 17
