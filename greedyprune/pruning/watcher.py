"""Who is told of work that takes time."""

from typing import Protocol, SupportsFloat


class Watcher(Protocol):
    """Is told what is being done, and how far it is."""

    def doing(self, text: str) -> None:
        """From now on it is this that takes time."""
        ...

    def progress(self, done: int, total: int, loss: SupportsFloat | None = None) -> None:
        """How far that is.

        Args:
            done: steps that are done.
            total: steps that there are.
            loss: of the last one. It is read only where it is shown: reading it may wait for a device.
        """
        ...


class Unwatched:
    """Tells nobody."""

    def doing(self, text: str) -> None: ...

    def progress(self, done: int, total: int, loss: SupportsFloat | None = None) -> None: ...


UNWATCHED: Watcher = Unwatched()
