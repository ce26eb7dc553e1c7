"""Trials: a command stopped, started again, and compared with an undisturbed one."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from erase.files import read_json, write_json, write_text

from .commands import Commands
from .content import content, phase, unreadable
from .processes import ended, kill_at, record_sites, signalled, start

KINDS = {
    "long": "killed (SIGKILL), digits preset", "short": "killed (SIGKILL), short", "signals": "SIGTERM or SIGINT",
    "writes": "killed before or after a file replacement", "two": "two processes on one folder",
    "watch": "every file read while it runs",
}  # fmt: skip


class Trials:
    """The record, and the undisturbed runs that trials are compared with."""

    def __init__(self, output: Path, scratch: Path) -> None:
        self.output, self.scratch, self.commands = output, scratch, Commands(scratch)
        self.record: dict[str, Any] = read_json(output) if output.is_file() else {"trials": {}}
        self.whole: dict[str, tuple[dict[str, str], float]] = {}

    def reference(self, name: str, long: bool) -> tuple[dict[str, str], float]:
        key = f"{'long-' if long else ''}{name}"
        if key not in self.whole:
            home = self.scratch / "whole" / key
            shutil.rmtree(home, ignore_errors=True)
            code, seconds = ended(start(self.commands.words(name, long), home, home / "cache"))
            assert code == 0, (home / "log").read_text()[-2000:]
            self.whole[key] = content(home / "out"), seconds
            shutil.rmtree(home)
        return self.whole[key]

    def trial(self, key: str, body: Callable[[Path], dict[str, Any]]) -> None:
        if key in self.record["trials"]:
            return
        home = self.scratch / "trials" / key.replace("/", "_")
        shutil.rmtree(home, ignore_errors=True)
        result = body(home)
        self.record["trials"][key] = result
        self.record["machine"] = (
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, fp32 on the CPU"
        )
        write_json(self.output, self.record)
        write_text(self.output.with_suffix(".md"), table_of(self.record))
        print(key, json.dumps(result), flush=True)
        if result["identical"] and not result.get("unreadable"):
            shutil.rmtree(home)

    def judge(self, name: str, long: bool, home: Path, about: dict[str, Any]) -> dict[str, Any]:
        """Continues to the end, and compares."""
        code, _ = ended(start(self.commands.words(name, long), home, home / "cache"))
        found, wanted = content(home / "out") if code == 0 else {}, self.reference(name, long)[0]
        different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        return {"command": name, **about, "code": code, "identical": not different, "different": different[:5]}

    def killed(self, key: str, name: str, kills: int, long: bool = False, number: int = signal.SIGKILL) -> None:
        """``kills`` kills at random moments of the time that an undisturbed run takes, then to the end."""

        def body(home: Path) -> dict[str, Any]:
            draws, seconds = random.Random(key), self.reference(name, long)[1]
            phases: list[str] = []
            bad: list[str] = []
            codes: list[int] = []
            for _ in range(20):
                if len(phases) == kills:
                    break
                if phases:
                    with (home / "log").open("a") as log:
                        log.write("--- start ---\n")
                process = start(self.commands.words(name, long), home, home / "cache")
                code = signalled(process, draws.uniform(0, seconds), number)
                code = ended(process)[0] if code is None else code
                if code == 0:  # it was through before
                    if not phases:
                        shutil.rmtree(home)
                        continue
                    break
                codes.append(code)
                phases.append(phase(home))
                bad += unreadable(home)
            expected = -number if number == signal.SIGKILL else 128 + number
            about = {"killed in": phases, "codes": sorted({*codes}), "as told": {*codes} == {expected}}
            return self.judge(name, long, home, {**about, "unreadable": bad})

        self.trial(key, body)

    def sites(self, name: str) -> list[tuple[str, int]]:
        """Every place in the code that replaces a file, with the number of its first replacement."""
        home = self.scratch / "sites"
        shutil.rmtree(home, ignore_errors=True)
        code, _ = ended(start(self.commands.words(name), home, home / "cache", lambda: record_sites(home / "sites")))
        assert code == 0, (home / "log").read_text()[-2000:]
        found: dict[str, int] = {}
        for number, site in enumerate((home / "sites").read_text().splitlines()):
            found.setdefault(site, number)
        return list(found.items())

    def writes(self, name: str) -> None:
        for site, number in self.sites(name):
            for moment in ("before", "after"):

                def body(home: Path, number: int = number, moment: str = moment) -> dict[str, Any]:
                    words = self.commands.words(name)
                    code, _ = ended(start(words, home, home / "cache", lambda: kill_at(number, moment)))
                    about = {"killed in": [moment], "codes": [code], "as told": code == -signal.SIGKILL}
                    return self.judge(name, False, home, {**about, "unreadable": unreadable(home)})

                self.trial(f"writes/{name}/{site}/{moment}", body)

    def two(self, key: str, name: str) -> None:
        def body(home: Path) -> dict[str, Any]:
            words = self.commands.words(name)
            pair = [start(words, home, home / "cache") for _ in range(2)]
            codes = sorted(ended(process)[0] for process in pair)
            said = (home / "log").read_text().count("another process is working in")
            return self.judge(name, False, home, {"codes": codes, "as told": codes == [0, 2] and said == 1})

        self.trial(key, body)

    def watched(self, key: str, name: str) -> None:
        """All files are read again and again while the command runs."""

        def body(home: Path) -> dict[str, Any]:
            process, looks, bad = start(self.commands.words(name), home, home / "cache"), 0, []
            while not os.waitpid(process, os.WNOHANG)[0]:
                bad += unreadable(home)
                looks += 1
            return self.judge(name, False, home, {"looks": looks, "unreadable": bad, "as told": True})

        self.trial(key, body)


def table_of(record: dict[str, Any]) -> str:
    """Trials, ends that are bit-identical, unreadable files and where they were stopped, by kind."""
    lines = ["| what | trials | end bit-identical | as told | unreadable files | stopped in |", "|" + "---|" * 6]
    for kind, title in KINDS.items():
        rows = [row for key, row in record["trials"].items() if key.startswith(f"{kind}/")]
        places = Counter(place for row in rows for place in row.get("killed in", []))
        shown = ", ".join(f"{place} {count}" for place, count in places.most_common())
        sums = [sum(bool(row[name]) for row in rows) for name in ("identical", "as told")]
        bad = sum(len(row.get("unreadable", [])) for row in rows)
        lines.append(f"| {title} | {len(rows)} | {sums[0]} | {sums[1]} | {bad} | {shown} |")
    return "\n".join(lines) + "\n"
