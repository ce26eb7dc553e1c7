"""Trials: a command stopped, started again, and compared with an undisturbed one."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from erase.files import read_json, write_json

from .commands import Commands
from .content import content, phase, unreadable
from .processes import Site, ended, kill_at, record_sites, signalled, start

LAST = "unlearning.finish"  # of a run's replacements, tried again where a run is part of something else


class Trials:
    """The record, and the undisturbed runs that trials are compared with."""

    def __init__(self, output: Path, scratch: Path) -> None:
        self.output, self.scratch, self.commands = output, scratch, Commands(scratch)
        self.record: dict[str, Any] = read_json(output) if output.is_file() else {"trials": {}}
        self.whole: dict[str, tuple[dict[str, str], float]] = {}
        self.code = code()

    def reference(self, name: str, long: bool) -> tuple[dict[str, str], float]:
        key = f"{'long-' if long else ''}{name}"
        if key not in self.whole:
            home = self.scratch / "whole" / key
            shutil.rmtree(home, ignore_errors=True)
            self.commands.prepare(name, home)
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
        result = {**body(home), "of": self.code}
        self.record["trials"][key] = result
        self.record["machine"] = (
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, fp32 on the CPU"
        )
        write_json(self.output, self.record)
        print(key, json.dumps(result), flush=True)
        if result["identical"] and not result.get("unreadable"):
            shutil.rmtree(home)

    def judge(self, name: str, long: bool, home: Path, about: dict[str, Any]) -> dict[str, Any]:
        """Continues to the end, and compares."""
        code, _ = ended(start(self.commands.words(name, long), home, home / "cache"))
        done = code == 0 or (name == "convert" and code == 2)  # which refuses a file that is there, and so whole
        found, wanted = content(home / "out") if done else {}, self.reference(name, long)[0]
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

    def sites(self, name: str) -> list[Site]:
        """Every place in the code that replaces a file, in the order of their first replacements."""
        home = self.scratch / "sites"
        shutil.rmtree(home, ignore_errors=True)
        self.commands.prepare(name, home)
        code, _ = ended(start(self.commands.words(name), home, home / "cache", lambda: record_sites(home / "sites")))
        assert code == 0, (home / "log").read_text()[-2000:]
        lines = [line.split("\t") for line in dict.fromkeys((home / "sites").read_text().splitlines())]
        return [(place, at) for place, at in lines]

    def writes(self, name: str, known: set[Site]) -> None:
        """Each place but those that are ``known``, to which they are added; in a table's cells, which are runs, those
        of no run."""
        count: Counter[str] = Counter()
        for place, lines in self.sites(name):
            bare = (place.rpartition(" ")[2], lines)
            again = bare[0] != LAST and (bare in known or (place != bare[0] and not bare[0].startswith("work.")))
            known.add(bare)
            count[place] += 1
            label = place if count[place] == 1 else f"{place} {count[place]}"
            for moment in () if again else ("before", "after"):

                def body(home: Path, site: Site = (place, lines), moment: str = moment) -> dict[str, Any]:
                    self.commands.prepare(name, home)
                    words = self.commands.words(name)
                    code, _ = ended(start(words, home, home / "cache", lambda: kill_at(site, moment)))
                    told = code == -signal.SIGKILL
                    if " " in site[0]:  # the table goes on, and says so
                        failed = (0, "the golden run failed") if site[0].startswith("golden ") else (1, "cells failed")
                        told = code == failed[0] and failed[1] in (home / "log").read_text()
                    about = {"killed in": [moment], "codes": [code], "as told": told}
                    return self.judge(name, False, home, {**about, "unreadable": unreadable(home)})

                self.trial(f"writes/{name}/{label}/{moment}", body)

    def two(self, key: str, name: str) -> None:
        def body(home: Path) -> dict[str, Any]:
            self.commands.prepare(name, home)
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


def code() -> str:
    """The last commit that changed the package, marked if it has changed since."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words, "--", "erase"], cwd=root, capture_output=True, text=True).stdout.strip()

    return git("log", "-1", "--format=%h") + ("+" if git("status", "--porcelain") else "")
