"""Errors that are the user's to mend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """Wrong use or bad input: the command line prints its one line and exits with code 2."""


class StoppedError(Exception):
    """What the machine did to a run under way: the command line prints its one line and exits with code 1."""


class NoModelError(UserError):
    """There is no model at the source asked for."""


class Faults:
    """Wrong settings, gathered so that all are told at once and not one a try."""

    SHOWN = 10

    def __init__(self) -> None:
        self.found: list[str] = []
        self.absent: NoModelError | None = None

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Notes a UserError of the block and goes on after it."""
        try:
            yield
        except NoModelError as error:
            self.absent = error
        except UserError as error:
            self.found.append(str(error).removeprefix("config: "))

    def tell(self) -> None:
        """Raises UserError in one line for what was found, if anything was; a model that is not there comes last."""
        if self.absent is not None and not self.found:
            raise self.absent
        told = list(dict.fromkeys([*self.found, *([str(self.absent)] if self.absent else [])]))
        if told:
            more = f"; and {len(told) - self.SHOWN} more" if len(told) > self.SHOWN else ""
            raise UserError("config: " + "; ".join(told[: self.SHOWN]) + more)


class PeerError(Exception):
    """Another process of the same run is gone."""


def nearest(word: str, known: object, limit: int = 3, listed: bool = True) -> str:
    """A hint such as ``; did you mean 'sfron'?`` for a misspelt word, else (``listed``) the list of what is known."""
    import difflib

    names = {str(name).casefold(): str(name) for name in sorted(known, key=str)}  # type: ignore[call-overload]
    close = difflib.get_close_matches(str(word).casefold(), names, n=limit, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(repr(names[name]) for name in close)}?"
    shown = ", ".join([*names.values()][:20]) + (", ..." if len(names) > 20 else "")
    return f"; known: {shown}" if names and listed else ""
