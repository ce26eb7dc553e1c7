"""``erase report``: one self-contained HTML file of a run or of a table's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from .. import __version__
from ..errors import UserError
from ..files import write_text
from ..packs import understood
from .run_folder import is_run_folder, read_run
from .run_page import lead_of, run_sections, title_of
from .table_page import find_tables, table_sections


def write_report(source: str | Path, output: str | Path | None = None) -> dict[str, Any]:
    """Writes the page; its ``output``, ``kind`` (run or table) and ``sections``, the ids in it.

    ``source``: a run folder, finished or not; a folder of ``erase table``, or one table in it as DIR/NAME. ``output``
    defaults to ``report.html`` in the folder (``NAME.html`` for one table). Raises UserError for what is neither, for
    a damaged file in it, and for an output that cannot be written.
    """
    path = Path(source)
    try:
        tables = [] if is_run_folder(path) else find_tables(path)
        if tables:
            values = _table_page(path, tables)
        elif is_run_folder(path):
            with understood(path):
                values = _run_page(path)
        else:
            raise UserError(f"{path} is neither a run nor a table; give the folder of erase run or of erase table")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    home = path if path.is_dir() else path.parent
    target = (
        Path(output) if output is not None else home / ("report.html" if path.is_dir() else f"{tables[0].stem}.html")
    )
    if target.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output must end in .html, not {target.name!r}")
    try:
        with understood(path):
            page = render(values)
    except UndefinedError as error:
        raise UserError(f"{path} does not hold what it should: {error.message}") from None
    try:
        write_text(target, page)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
    return {"output": str(target), "kind": values["kind"], "sections": values["ids"]}


def _run_page(path: Path) -> dict[str, Any]:
    run = read_run(path)
    sections = run_sections(run)
    about = {"kind": "run", "title": title_of(run), "lead": lead_of(run), "run": run}
    return {**about, "sections": sections, "ids": list(sections), "finished": run.results is not None}


def _table_page(path: Path, tables: list[Path]) -> dict[str, Any]:
    found = [table_sections(file) for file in tables]
    title = (
        found[0]["title"] if len(found) == 1 else f"Tables of {(path if path.is_dir() else path.parent).resolve().name}"
    )
    return {"kind": "table", "title": title, "lead": "", "tables": found, "ids": [table["id"] for table in found]}


def render(values: dict[str, Any]) -> str:
    """Everything is escaped but what this package has drawn itself."""
    loader = PackageLoader("erase.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template(f"{values['kind']}.html").render(version=__version__, **values)
    return text.encode("utf-8", "replace").decode("utf-8")
