"""Errors that are the user's to mend."""


class UserError(Exception):
    """Wrong use or bad input: the command line prints its one line and exits with code 2."""


class StoppedError(Exception):
    """What the machine did to a run under way: the command line prints its one line and exits with code 1."""


class NoModelError(UserError):
    """There is no model at the source asked for."""


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
