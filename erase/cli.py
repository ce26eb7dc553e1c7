"""The ``erase`` command: it ends with the documented exit code and, if it failed, with one line."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from typing import Any

import click

from .commands import cli
from .errors import PeerError, StoppedError, UserError
from .launched import be_quiet, end, launched, leave, lost, may_speak
from .signals import Interrupted


class Terminated(BaseException):
    """SIGTERM arrived."""


def main() -> None:
    """Runs the command and turns every ending into the documented exit code and, if it failed, one line."""
    debug = "--debug" in sys.argv[1:]
    signal.signal(signal.SIGTERM, _terminate)
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\)")  # PIL's; what is too large is refused in one line
    try:
        be_quiet()
        _check_words(sys.argv[1:])
        code = cli.main(standalone_mode=False)
        leave()
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _fail(f"interrupted; {_again()}", 130)
    except click.ClickException as error:
        _fail(f"{' '.join(error.format_message().split())} (see erase --help)", 2)
    except KeyboardInterrupt:
        _fail(f"interrupted; {_again()}", 130)
    except Terminated:
        _fail(f"terminated; {_again()}", 143)
    except Interrupted as stop:
        _fail(f"stopped, and what was done is saved; {_again()}", stop.code)
    except PeerError as error:
        if debug:
            raise
        _fail(f"{error}; {_again()}", 1)
    except StoppedError as error:
        if debug:
            raise
        _fail(str(error), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        end(1)
    except Exception as error:  # the last door: one line instead of a traceback, and never exit code 0
        if debug:
            raise
        from .faults import ending

        _fail(*ending(error))


def _check_words(words: list[str]) -> None:
    for word in words:
        if "\0" in word or any("\ud800" <= c <= "\udfff" for c in word):
            raise UserError(f"{word!r} holds a zero byte or is not UTF-8; no class, setting or path may")


def _terminate(number: int, frame: Any) -> None:
    if not lost():
        raise Terminated


def _again() -> str:
    """The line that continues."""
    name = ["python", "-m", "erase"] if os.path.basename(sys.argv[0]) == "__main__.py" else ["erase"]
    if launched() > 1:
        name = ["torchrun", "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", "1"), *name[1:]]
    return f"to continue: {shlex.join([*name, *sys.argv[1:]])}"


def _fail(line: str, code: int) -> None:
    from .text import plain

    if may_speak():  # one of several processes
        click.echo(f"erase: {plain(line)}", err=True)
    end(code)
