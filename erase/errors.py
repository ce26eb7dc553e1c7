"""Errors that are the user's to mend."""


class UserError(Exception):
    """Wrong use or bad input: the command line prints its one line and exits with code 2."""


class NoModelError(UserError):
    """There is no model at the source asked for."""


def nearest(word: str, known: object, limit: int = 3) -> str:
    """A hint such as ``; did you mean 'sfron'?`` for a misspelt word, or the list of what is known."""
    import difflib

    names = sorted(str(name) for name in known)  # type: ignore[attr-defined]
    close = difflib.get_close_matches(str(word), names, n=limit, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(repr(name) for name in close)}?"
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"; known: {shown}" if names else ""
