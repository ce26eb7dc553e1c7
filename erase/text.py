"""Names and values that come from outside, made harmless for a terminal, an error line, Markdown and CSV."""

from __future__ import annotations

import re
import reprlib
from typing import Any

NAME_LENGTH = 500  # characters of a class name; ImageNet's longest has about 130
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist = 2, 4, 6


def plain(text: object) -> str:
    """``text`` as one line: control characters, line breaks, text direction marks and broken bytes written out.

    What is printable stays as it is, so that nothing from outside can move a terminal's cursor or forge a second line.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def brief(value: Any) -> str:
    """``repr`` of any value, cut short: an error line names it even if it is nested without end."""
    try:
        return plain(_SHORT.repr(value))
    except Exception:  # a number too long to be written out, or a repr of its own that fails
        return f"a value of type {type(value).__name__}"


def is_name(text: object) -> bool:
    """Whether this can be a class's name: printable text of some length."""
    return isinstance(text, str) and text.isprintable() and len(text.strip()) > 0 and len(text) <= NAME_LENGTH


def markdown(text: object) -> str:
    """``text`` as words of one Markdown line, no link, tag, table border or code."""
    return re.sub(r"([\\`<>|\[\]])", r"\\\1", plain(text))


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula (OWASP, CSV injection); numbers stay as they are."""
    if isinstance(value, str):
        value = plain(value)
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
    return value
