"""`ndserve models`: one set of commands for the models of a server and for those in a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ndserve.cli import model_table, show
from ndserve.cli.arguments import ModelName
from ndserve.cli.exits import DONE, NOT_DONE, UsageError
from ndserve.errors import ConflictError, UnknownTargetError

if TYPE_CHECKING:
    from ndserve.client import Client

Version = Mapping[str, Any]
"""A version of a model as the document that a server gives of it, or as much of it as there is."""


class Place(Protocol):
    """Where models are. The methods raise NdserveError for what is refused, and UsageError for what cannot be."""

    shown: str
    """What a person knows it by."""

    def versions(self, name: str | None) -> Sequence[Version]:
        """Those of one model, or all; UnknownTargetError where there is no such model."""
        ...

    def memory(self) -> Mapping[str, Any] | None:
        """How full the memory is, where there is one."""
        ...

    def act(self, action: str, model: ModelName, timeout: float | None) -> Sequence[Version]:
        """Load, unload, pin or unpin; gives what has become of it."""
        ...

    def upload(self, name: str, version: str, file: str, replace: bool, timeout: float) -> Version:
        """Put a file there; ConflictError where the version is there and is not to be replaced."""
        ...

    def delete(self, model: ModelName) -> None:
        """Remove a version, or all of them."""
        ...


class OnServer:
    """The models of a server."""

    def __init__(self, client: Client, url: str) -> None:
        self._models = client.models
        self.shown = url

    def versions(self, name: str | None) -> Sequence[Version]:
        return self._models.list(name)

    def memory(self) -> Mapping[str, Any] | None:
        return self._models.memory()

    def act(self, action: str, model: ModelName, timeout: float | None) -> Sequence[Version]:
        if action == "load":
            assert timeout is not None
            return self._models.load(*model, timeout=timeout)
        if action == "unload":
            return self._models.unload(model.name)
        return (self._models.pin if action == "pin" else self._models.unpin)(*model)

    def upload(self, name: str, version: str, file: str, replace: bool, timeout: float) -> Version:
        try:
            return self._models.upload(name, version, file, replace=replace, timeout=timeout)
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror or error}") from None

    def delete(self, model: ModelName) -> None:
        self._models.delete(*model)


def manage(place: Place, options: argparse.Namespace) -> int:
    """Do what the command line says; gives the exit code.

    Raises:
        UsageError: it cannot be done as it was given.
        NdserveError: it was refused.
    """
    if options.action is None:
        return _list(place, options.json)
    if options.action == "upload":
        return _upload(place, options)
    if options.action == "delete":
        return _delete(place, options)
    found = place.act(options.action, options.model, getattr(options, "timeout", None))
    _tell(found, options.json)
    return DONE


def _list(place: Place, as_json: bool) -> int:
    found, memory = place.versions(None), place.memory()
    if as_json:
        show.document({"models": list(found), **({} if memory is None else {"memory": memory})})
        return DONE
    _tell(found, as_json)
    if memory is not None:
        show.note(model_table.memory(memory))
    return DONE


def _upload(place: Place, options: argparse.Namespace) -> int:
    name, version = options.model
    if version is None:
        if options.replace:
            raise UsageError(f"--replace: say which version of {name} it is to replace: {name}/VERSION")
        version = _next_version(place, name)
    try:
        found = place.upload(name, version, options.file, options.replace, options.timeout)
    except ConflictError:
        if not options.replace:
            show.note(f"--replace overwrites {name}/{version}, and without a version the file becomes a new one")
        raise
    if options.json:
        show.document(found)
    else:
        model_table.show([found])
    return DONE


def _next_version(place: Place, name: str) -> str:
    """The one after the newest, so that it is served to whoever asks for no version."""
    try:
        return str(1 + max(int(each["version"]) for each in place.versions(name)))
    except UnknownTargetError:
        return "1"


def _delete(place: Place, options: argparse.Namespace) -> int:
    model: ModelName = options.model
    what = str(model)
    if model.version is None:
        versions = [each["version"] for each in place.versions(model.name)]
        what = f"{model.name} with its version{'s' * (len(versions) > 1)} {', '.join(versions)}"
    if not options.yes and not _agreed(f"delete {what} from {place.shown}?"):
        show.note("nothing was deleted")
        return NOT_DONE
    place.delete(model)
    if options.json:
        show.document({"name": model.name, "version": model.version, "deleted": True})
    else:
        show.note(f"{what} deleted")
    return DONE


def _agreed(question: str) -> bool:
    """Whether a person says yes.

    Raises:
        UsageError: there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody can be asked here: say --yes")
    print(f"ndserve: {question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _tell(found: Sequence[Version], as_json: bool) -> None:
    if as_json:
        show.document({"models": list(found)})
    elif found:
        model_table.show(found)
    else:
        show.note("no models")
