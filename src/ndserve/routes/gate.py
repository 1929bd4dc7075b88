"""The one place that decides who may do what. Every request passes it before any route sees it.

It looks at the same string that the routes match: the decoded path, less the root. No other spelling is looked at by
anybody, so there is none to get past it with. What it does not know it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fastapi import APIRouter
from starlette.routing import BaseRoute, Match

from ndserve.access import Key, KeyFile, Role
from ndserve.errors import ForbiddenError, NotFoundError, StartupError, UnauthorizedError
from ndserve.routes.asgi import Scope
from ndserve.routes.local import is_loopback, reason_against
from ndserve.routes.rights import MANAGE, OPEN, USE, Rights, rights_of

REMEDY = "start the server with --api-keys-file or --open-management"

# https://www.rfc-editor.org/rfc/rfc6750#section-3
CHALLENGE = 'Bearer realm="ndserve"'
INVALID = f'{CHALLENGE}, error="invalid_token"'
INSUFFICIENT = f'{CHALLENGE}, error="insufficient_scope"'

_SHOWN = 200


class Gate:
    """Asks every request for its key, or, where there are no keys, keeps management to this machine."""

    def __init__(
        self, keys: KeyFile | None, *, host: str, open_management: bool, user_routes: Sequence[BaseRoute] = ()
    ) -> None:
        """`host` is the address that the server was told to listen on."""
        self.keys = keys
        self._host = host
        self._open = open_management
        self._user_routes = user_routes

    def check(self, scope: Scope, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Let the request pass, or refuse it; `path` and `headers` are the scope's, as the routes see them.

        Raises:
            UnauthorizedError: it needs a key that is in force.
            NotFoundError: there is no such path.
            ForbiddenError: its key, or the place that it comes from, does not suffice.
        """
        rights = rights_of(path) or self._users(path, scope)
        # A WebSocket has no method, and may do what it likes.
        needed = rights.of(scope.get("method", "")) if rights is not None else Role.INFER
        if needed is OPEN:
            return
        key = None if self.keys is None else _key(self.keys, scope, headers)
        if rights is None:
            raise NotFoundError(f"{scope.get('method', 'WebSocket')} {path[:_SHOWN]}: no such path")
        if needed is not MANAGE:
            return
        if key is None:
            self._check_place(scope)
        elif key.role is not Role.MANAGE:
            raise ForbiddenError(
                f"the key {key.name!r} has the role {key.role.value}; this needs manage", challenge=INSUFFICIENT
            )

    def knows(self, scope: Scope) -> bool:
        """Whether the caller has a key in force, or none is asked for."""
        if self.keys is None:
            return True
        try:
            _key(self.keys, scope, dict(scope["headers"]))
        except UnauthorizedError:
            return False
        return True

    def describe(self) -> str:
        """Who may manage, and why: a line for the log."""
        if self.keys is not None:
            return f"with a key of the role manage (--api-keys-file, keys in force: {len(self.keys)})"
        if self._open:
            return "open to everyone who reaches the server (--open-management)"
        if is_loopback(self._host):
            return f"open to this machine (--host {self._host}, no --api-keys-file)"
        return f"closed on {self._host}; {REMEDY}"

    def _users(self, path: str, scope: Scope) -> Rights | None:
        """The rights of a user's own route, where one has this path.

        Two spellings are never theirs, since they might lead to one of ndserve's own routes as well: Starlette's
        regular expressions overlook a line's end behind the path, and a root that ends within a segment.
        """
        if not path.startswith("/") or path.endswith("\n"):
            return None
        # A copy, since a route may leave notes in it.
        fits = any(route.matches(dict(scope))[0] is not Match.NONE for route in self._user_routes)
        return USE if fits else None

    def _check_place(self, scope: Scope) -> None:
        if self._open:
            return
        if not is_loopback(self._host):
            raise ForbiddenError(f"management is closed on {self._host}; {REMEDY}")
        reason = reason_against(scope)
        if reason is not None:
            raise ForbiddenError(f"management is closed to this request: {reason}; {REMEDY}")


def open_gate(
    api_keys_file: Path | None, host: str, *, open_management: bool, routers: Iterable[APIRouter] = ()
) -> Gate:
    """The gate of a server that was started so; `routers` are the user's.

    Raises:
        StartupError: the key file is of no use, or was given together with its opposite.
    """
    routes = [route for router in routers for route in router.routes]
    if api_keys_file is None:
        return Gate(None, host=host, open_management=open_management, user_routes=routes)
    if open_management:
        raise StartupError(
            "--open-management lets everyone manage, and --api-keys-file only those with a key; give one of them"
        )
    keys = KeyFile(api_keys_file)
    keys.load()
    return Gate(keys, host=host, open_management=False, user_routes=routes)


def _key(keys: KeyFile, scope: Scope, headers: Mapping[bytes, bytes]) -> Key:
    """The key that the request carries.

    Raises:
        UnauthorizedError: it carries none, one that is not in force, or several.
    """
    given = headers.get(b"authorization")
    if given is None:
        raise UnauthorizedError("this needs a key: send `Authorization: Bearer KEY`", challenge=CHALLENGE)
    # A mapping has one of each; with fewer than were sent, this one may have come twice.
    twice = len(headers) < len(scope["headers"]) and [name for name, _ in scope["headers"]].count(b"authorization") > 1
    key = None if twice else keys.find(given)
    if key is None:
        raise UnauthorizedError("the Authorization header holds no key that is in force", challenge=INVALID)
    return key
