"""Which versions of a model are to answer, once each has been tried where it must be. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ndserve.engine.target import Target
from ndserve.errors import ModelLoadError, ModelTooLargeError, NdserveError
from ndserve.model_info import ModelInfo


class Succession:
    """The versions that lie there, noted one after the other with the newest first, beside those that answer now."""

    def __init__(
        self, served: Mapping[str, Target], current: Target | None, *, eager: bool, ready: Target | None
    ) -> None:
        """What answers now, by version, and the default among it; `eager` and `ready` as `Takeover.adopt` has them."""
        self.served = served
        self.fresh: list[Target] = []
        """Those that are new, whatever comes of them."""
        self.broken: list[ModelInfo] = []
        """Those that cannot be asked."""
        self.failures: dict[str, NdserveError] = {}
        """Why what lies there did not load, for versions that can be asked all the same."""
        self._answering: list[Target] = []
        self._current = current
        self._eager = eager
        self._ready = ready
        self._proven = current is not None or not eager

    def must_load(self, target: Target | None) -> bool:
        """Whether the version has to load before it answers: it takes over, or is the first that is asked for."""
        if target is None or target is self._ready:
            return False
        former, newer = self.served.get(target.version), is_newer(target, self._current)
        if target is former:
            return self._eager and newer  # it did not load before
        return former is not None or newer or not self._proven

    def instead_of(self, target: Target) -> list[Target]:
        """What the version takes over from: what it was before, and the default."""
        current = self._current if is_newer(target, self._current) else None
        return [each for each in (self.served.get(target.version), current) if each is not None]

    def offer(self, target: Target | None) -> None:
        """Note what lies there before it is tried."""
        if target is not None and target is not self.served.get(target.version):
            self.fresh.append(target)

    def note(self, info: ModelInfo, target: Target | None, fault: NdserveError | None) -> None:
        """Note what it has come to; without a target it cannot be asked, for that fault."""
        former = self.served.get(info.version)
        if fault is None and self.must_load(target):
            self._proven = True
        answers = former if fault is not None and former is not None else target
        if answers is None or not (fault is None or former or _is_its_own(fault)):
            self.broken.append(replace(info, problem=info.problem or str(fault)))
        else:
            self._answering.append(answers)  # one that does not load is listed, and passed over as long as that is so
        if fault is not None and answers is not None:
            self.failures[info.version] = fault

    @property
    def answering(self) -> list[Target]:
        """What is to answer, in the order of the versions."""
        return self._answering[::-1]

    @property
    def refused(self) -> list[Target]:
        """What is new and is not to answer."""
        return [target for target in self.fresh if target not in self._answering]

    @property
    def accepted(self) -> list[Target]:
        """What is new and is to answer."""
        return [target for target in self.fresh if target in self._answering]

    def check(self, *, whole: bool) -> None:
        """Refuse all of it where nothing has loaded that was to, or where it is all or nothing.

        Raises:
            NdserveError: why not.
        """
        if (self.failures and whole) or not self._proven:
            raise next(iter([*self.failures.values(), *map(unusable, self.broken)]))


def is_newer(target: Target | None, current: Target | None) -> bool:
    """Whether there is a default, and the other is of a higher version."""
    return target is not None and current is not None and int(target.version) > int(current.version)


def unusable(info: ModelInfo) -> ModelLoadError:
    """The error of a version that has a problem."""
    return ModelLoadError(f"model {info.name!r} version {info.version} cannot be served: {info.problem}")


def _is_its_own(fault: NdserveError) -> bool:
    """Whether a model that did not load is itself to blame."""
    return isinstance(fault, ModelLoadError | ModelTooLargeError)
