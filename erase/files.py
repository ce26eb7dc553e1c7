"""Where things lie, and writing them so that nobody ever sees half a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError
from .faults import FULL, writing
from .launched import launched_rank
from .leftovers import NEW, clear, prefix
from .untrusted import check_regular, open_regular, read_regular

SETTLED = 2_000_000_000  # ns; a younger file may change again within one tick of the file system's clock

SMALL = 1 << 20  # bytes of a file that is read at once


def shipped(kind: str) -> Path:
    """The folder of shipped ``assets`` or ``configs``: inside the installed package, else the checkout's top level."""
    package = Path(__file__).resolve().parent
    inside = package / "_shipped" / kind
    return inside if inside.is_dir() else package.parent / kind


def cache_folder(*parts: str) -> Path:
    """A folder under ``ERASE_CACHE`` (default: the platform's cache folder), made if absent."""
    import platformdirs

    root = Path(os.environ.get("ERASE_CACHE") or platformdirs.user_cache_dir("erase", appauthor=False))
    folder = root.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise UserError(f"cannot write the cache folder {folder} ({error.strerror}); set ERASE_CACHE") from None
    return folder


def check_writable(folder: Path, what: str) -> None:
    """Makes ``folder`` and a file in it, which is removed. Raises UserError naming ``what`` if that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise UserError(f"cannot write {what} {folder}: {error.strerror}") from None


def check_creatable(folder: Path, what: str) -> None:
    """As :func:`check_writable`, as far as can be told without making anything."""
    whole = folder.absolute()
    there = next(path for path in (whole, *whole.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise UserError(f"cannot write {what} {folder}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {what} {folder}: {there} is not writable")


def check_appendable(path: Path) -> None:
    """As :func:`check_writable`, for a file that lines are to be added to."""
    check_writable(path.parent, "the folder")
    try:
        if path.exists():
            if not path.is_file():
                raise UserError(f"{path} is no regular file; give another --output")
            path.open("ab").close()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


@contextlib.contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; when the block ends well it is (synced and) renamed to ``path``.

    With ``sync``, what killed processes have left of the same file goes; for one of many the folder is not searched.
    """
    with writing(path, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        if sync:
            clear(path, path.suffix or NEW)
        handle, name = tempfile.mkstemp(prefix=prefix(path), suffix=path.suffix or NEW, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with writing(path, temporary):
            yield temporary
            if sync:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        if sync:
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path, sync: bool = True) -> Iterator[Path]:
    """As :func:`replacing`, for a whole folder: always a fresh one, so no stale file of an earlier save survives.

    What killed processes have left of it goes, also without ``sync``.
    """
    with writing(path, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear(path, NEW)
        temporary = Path(tempfile.mkdtemp(prefix=prefix(path), suffix=NEW, dir=path.parent))
    try:
        os.chmod(temporary, 0o755)
        with writing(path, temporary):
            yield temporary
            for file in temporary.rglob("*") if sync else ():
                if file.is_file():
                    with file.open("rb+") as opened:
                        os.fsync(opened.fileno())
        old = path.with_name(f".{path.name}.old-{os.getpid()}")
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        if sync:
            sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """``target`` with the content of ``source``: a hard link where the file system allows it, else a copy."""
    with replacing(target, sync=False) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder last through a loss of power, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        with open_regular(path) as file:
            return json.loads(file.read().decode())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it or make it anew") from None


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata)


def read_tensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    check_regular(path)
    try:
        return load_file(path)
    except Exception as error:  # safetensors' own kind, and those of its tables of types and names
        raise UserError(f"cannot read {path}: {error}") from None


def digest(*parts: Any) -> str:
    """16 hex digits of SHA-256 over bytes, strings, files (``Path``), or anything JSON can hold."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = _file_digest(part)
        elif not isinstance(part, bytes | memoryview):
            part = json.dumps(part, sort_keys=True, default=str).encode()
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()[:16]


def _file_digest(path: str | Path) -> bytes:
    content = read_regular(path, SMALL)  # the other way clears a large buffer first
    if content is not None:
        return hashlib.sha256(content).digest()
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


def relative_names(root: Path, files: Sequence[str | Path]) -> list[str]:
    """Each file's path from ``root`` on."""
    front = os.path.join(root, "")  # cutting strings is ten times faster than Path.relative_to
    names = (str(file) for file in files)
    return [name[len(front) :] if name.startswith(front) else os.path.relpath(name, root) for name in names]


def file_digests(root: Path, files: Sequence[str | Path]) -> list[str]:
    """:func:`digest` of each file under ``root``; a file of known size and time of change is not read again."""
    path = cache_folder("digests") / f"{digest(str(root.resolve()))}.json"
    known: dict[str, Any] = {}
    if path.is_file():
        with contextlib.suppress(UserError):  # a damaged one is made anew
            known = read_json(path)
        known = known if isinstance(known, dict) else {}
    found, settled, now = {}, dict(known), time.time_ns()
    for name, file in zip(relative_names(root, files), files, strict=True):
        about = _stat(file)
        if about is None or not stat.S_ISREG(about.st_mode):
            raise UserError(f"{file} is {'a link to nothing' if about is None else 'no regular file'}; remove it")
        stamp = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]  # copies may keep a file's time
        held = known.get(name)
        found[name] = held[-1] if held and held[:-1] == stamp else digest(_file_digest(file))
        settled.pop(name, None)
        if now - max(about.st_mtime_ns, about.st_ctime_ns) > SETTLED:
            settled[name] = [*stamp, found[name]]
    if settled != known and not launched_rank():
        with replacing(path, sync=False) as temporary:
            temporary.write_text(json.dumps(settled), encoding="utf-8")
    return list(found.values())


def _stat(file: str | Path) -> os.stat_result | None:
    """None for a link to nothing, which was never there; what has vanished is the machine's fault."""
    try:
        return os.stat(file)
    except FileNotFoundError:
        if os.path.islink(file):
            return None
        raise


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Tensors kept at ``path``: read if there, else made and written. A damaged file is made anew.

    Of several processes the main one looks and writes, and all make.
    """
    from . import processes  # imports torch, and so is left to those who have tensors

    held = held_tensors(path) if processes.is_main() else None
    if processes.largest(held is not None):
        return read_tensors(path) if held is None else held
    tensors = make()
    if processes.is_main():
        write_tensors(path, tensors)
    processes.barrier()
    return tensors


def held_tensors(path: Path) -> dict[str, Any] | None:
    """The tensors of a file, or None if it is not there or damaged."""
    with contextlib.suppress(UserError):
        return read_tensors(path) if path.is_file() else None
    return None
