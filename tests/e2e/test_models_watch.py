"""The folder of models is followed while the server runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.e2e.models import ONES, ask, external, factor_of, put, scaling
from tests.e2e.running import RunningServer, serving


def states(server: RunningServer, name: str = "m") -> list[tuple[str, str, bool]]:
    status, versions = ask(server, "GET", f"/models/{name}")
    return [(each["version"], each["state"], each["default"]) for each in versions] if status == 200 else []


def test_models_come_change_and_go_with_their_files(tmp_path: Path) -> None:
    with serving(models=tmp_path) as server:
        put(tmp_path, scaling(2))
        server.line("m: the model folder has changed; served is version 1$")
        assert (states(server), factor_of(server)) == ([("1", "UNLOADED", True)], 2)
        put(tmp_path, scaling(3), version=2)
        server.line("served is version 1, 2$")
        assert states(server) == [("1", "READY", False), ("2", "READY", True)]
        assert factor_of(server) == 3
        put(tmp_path, scaling(4), version=2)
        server.line("served is version 1, 2$")
        assert factor_of(server) == 4
        shutil.rmtree(tmp_path / "m" / "2")
        server.line("served is version 1$")
        assert factor_of(server) == 2
        shutil.rmtree(tmp_path / "m")
        server.line("served is version none$")
        assert ask(server, "GET", "/models/m")[0] == 404


def test_a_half_written_file_is_not_served_and_the_whole_one_is(tmp_path: Path) -> None:
    with serving(models=tmp_path) as server:
        put(tmp_path, scaling(2))
        server.line("served is version 1$")
        factor_of(server)
        whole = scaling(3)
        path = tmp_path / "m" / "2" / "model.onnx"
        path.parent.mkdir()
        with path.open("wb") as file:
            file.write(whole[: len(whole) // 2])
            file.flush()
            server.line("served is version 1$")
            assert states(server)[1][:2] == ("2", "FAILED")
            assert factor_of(server) == 2
            file.write(whole[len(whole) // 2 :])
        server.line("served is version 1, 2$")
        assert factor_of(server) == 3


def test_a_version_that_does_not_load_never_takes_the_old_one_down(tmp_path: Path) -> None:
    with serving(models=tmp_path) as server:
        put(tmp_path, scaling(2))
        server.line("served is version 1$")
        factor_of(server)
        put(tmp_path, scaling(3).replace(b"Identity", b"Unknowns"), version=2)
        server.line("m: what the model folder has now is not served: .*Unknowns")
        assert [(version, state) for version, state, _ in states(server)] == [("1", "READY"), ("2", "FAILED")]
        assert factor_of(server) == 2
        assert "Unknowns" in ask(server, "POST", "/tasks/m?version=2&wait=9", ONES)[1]["detail"]


def test_external_data_that_leads_elsewhere_is_listed_with_its_reason(tmp_path: Path) -> None:
    root = tmp_path / "models"
    put(root, external("w.bin"))
    with serving(models=root) as server:
        (root / "m" / "1" / "w.bin").symlink_to(tmp_path / "secret")
        server.line("served is version none$")
        assert "symbolic link" in ask(server, "GET", "/models/m/versions/1")[1]["reason"]
        status, refused = ask(server, "POST", "/models/m/load", b"")
        assert (status, refused["code"]) == (422, "invalid_model")
        (root / "m" / "1" / "w.bin").unlink()
        (tmp_path / "secret").write_bytes(bytes(8))
        os.link(tmp_path / "secret", root / "m" / "1" / "w.bin")
        server.line("served is version none$")
        assert "hard links" in ask(server, "POST", "/models/m/load", b"")[1]["detail"]
