"""Connecting while there is other work to do: a connection takes round trips, and little else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from .. import pauses

_LOOK_S = 0.25


class Closable(Protocol):
    """What can be connected."""

    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


class Ahead(threading.Thread, Generic[T]):
    """Something that is being connected. `name` is its session's."""

    def __init__(self, name: str, make: Callable[[], T]) -> None:
        super().__init__(name=name, daemon=True)
        self._make = make
        self._made: T | Exception | None = None
        self._wanted = True
        self.start()

    def run(self) -> None:
        """Connect."""
        try:
            made = self._make()
        except Exception as error:  # it is raised where this is taken
            self._made = error
            return
        self._made = made
        if not self._wanted:
            made.close()

    def comes(self, wait_s: float) -> bool:
        """Return whether it is there in that time, or is known not to come: `get` does not wait."""
        self.join(wait_s)
        return not self.is_alive()

    def get(self) -> T:
        """Return it when it is there. Raise what went wrong, if it cannot be connected.

        Raise `KeyboardInterrupt` meanwhile, in a thread that is told to stop.
        """
        while pauses.heeds() and self.is_alive():
            self.join(_LOOK_S)
            pauses.check()
        self.join()
        if isinstance(self._made, Exception):
            raise self._made
        assert self._made is not None
        return self._made

    def close(self) -> None:
        """Close it; what is not there in a second is left to close itself."""
        self._wanted = False
        self.join(1)
        if self._made is not None and not isinstance(self._made, Exception):
            self._made.close()
