"""Runs cells (policy x class x seed) of the digits pack, and prints their table.

    python scripts/digits_table.py run docs/results/digits-sfron.jsonl --classes 0-9 --seeds 0-2 --policies dual,shared
    python scripts/digits_table.py show docs/results/digits-sfron.jsonl

One JSON line a cell, appended as it comes; cells that are there are skipped, so it can be stopped and started again.
``key=value`` words go to every run. Two processes with one thread each are faster than one with two.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
from pathlib import Path

KEEP = ("fa", "fa_top1", "not_an_image", "ra", "fid")


def cell(job: tuple[str, int, int, list[str]]) -> dict:
    policy, label, seed, words = job
    import erase
    from erase.config import parse_words
    from erase.unlearning import run_in_folder

    with tempfile.TemporaryDirectory() as folder:
        request = erase.RunConfig(forget=[label], optimizer=policy, seed=seed, output=f"{folder}/run")
        results, _ = run_in_folder(request, parse_words([*words, "runtime.threads=1"]))
    row = {"policy": policy, "class": label, "seed": seed, "words": words, "config_hash": results["config_hash"]}
    for side in ("original", "erased"):
        row[side] = {name: results["models"][side][name] for name in KEEP}
    return {**row, "seconds": results["seconds"]}


def span(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def run(args: argparse.Namespace) -> None:
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {(r["policy"], r["class"], r["seed"], tuple(r["words"])) for r in rows}
    jobs = [
        (policy, label, seed, args.words)
        for seed in span(args.seeds)
        for label in span(args.classes)
        for policy in args.policies.split(",")
        if (policy, label, seed, tuple(args.words)) not in done
    ]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool, output.open("a") as file:
        for number, row in enumerate(pool.imap_unordered(cell, jobs), start=1):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{number}/{len(jobs)} {row['policy']} class {row['class']} seed {row['seed']}: {row['erased']}")


def show(args: argparse.Namespace) -> None:
    rows = [json.loads(line) for line in Path(args.output).read_text().splitlines()]
    settings = sorted({(r["policy"], tuple(r["words"])) for r in rows})
    print("| policy | class | FA % | FA top-1 % | not an image % | RA % (original) | FID (original) | FID ratio |")
    print("|---|---|---|---|---|---|---|---|")
    notes = []
    for policy, words in settings:
        mine = [r for r in rows if r["policy"] == policy and tuple(r["words"]) == words]
        name = f"{policy} {' '.join(words)}".strip()
        for label in sorted({r["class"] for r in mine}):
            print(line(name, str(label), [r for r in mine if r["class"] == label]))
        print(line(f"**{name}**", f"all ({len(mine)} runs)", mine))
        good = [r for r in mine if r["erased"]["fa"] <= 0.02]
        worst_fa = max(r["erased"]["fa"] for r in mine)
        worst_ra = 100 * max(r["original"]["ra"] - r["erased"]["ra"] for r in mine)
        worst_fid = max(r["erased"]["fid"] / r["original"]["fid"] for r in mine)
        notes.append(
            f"{name}: FA at most 2 % in {len(good)} of {len(mine)} runs, at most {100 * worst_fa:.1f} %; "
            f"RA at most {worst_ra:.2f} points lower; FID at most {worst_fid:.3f} times the original's."
        )
    print("\n" + "\n\n".join(notes))


def line(name: str, label: str, rows: list[dict]) -> str:
    def shown(values: list[float], digits: int) -> str:
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    percent = [shown([100 * r["erased"][k] for r in rows], 1) for k in ("fa", "fa_top1", "not_an_image", "ra")]
    before = statistics.mean(100 * r["original"]["ra"] for r in rows)
    fid = shown([r["erased"]["fid"] for r in rows], 2)
    fid_before = statistics.mean(r["original"]["fid"] for r in rows)
    ratio = shown([r["erased"]["fid"] / r["original"]["fid"] for r in rows], 2)
    cells = [name, label, *percent[:3], f"{percent[3]} ({before:.1f})", f"{fid} ({fid_before:.2f})", ratio]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("output")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--classes", default="0-9")
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--policies", default="dual,shared")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_intermixed_args()
    (run if arguments.what == "run" else show)(arguments)
