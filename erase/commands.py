"""The subcommands. Thin: each imports what it needs when it runs, so that ``--help`` is instant."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from . import __version__
from .launched import admit
from .signals import graceful

SETTINGS = click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


def _say(text: str, err: bool = False) -> None:
    """Prints lines in which names from outside can do nothing to a terminal."""
    from .text import plain

    click.echo("\n".join(plain(line) for line in text.split("\n")), err=err)


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Make a class-conditional diffusion transformer forget a class, and measure that it did."""
    admit(click.get_current_context().invoked_subcommand)


def _options(*options: Callable[..., Any]) -> Callable[..., Any]:
    """One decorator for several options."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


MODEL = _options(
    click.option(
        "--forget", "-f", multiple=True, metavar="CLASS", help="Class to forget: index, name or wnid; repeatable."
    ),
    click.option("--model", metavar="SRC", help="Pack, pipeline folder, hub id or .pt.  [default: digits]"),
    click.option("--data", metavar="digits|DIR", help="Images, one sub-folder a class.  [default: the pack's own]"),
    click.option("--preset", metavar="NAME", help="Shipped preset.  [default: MODEL/METHOD-POLICY]"),
    click.option("--config", metavar="FILE", help="A YAML file in the preset's place, or over one: base: NAME."),
    click.option("--method", metavar="NAME", help="See erase methods.  [default: sfron]"),
    click.option(
        "--optimizer", metavar="POLICY", help="shared, dual or dual_plus.  [default: dual where the method can]"
    ),
    click.option("--seed", type=click.IntRange(0), help="Seed of unlearning.  [default: 0]"),
    click.option(
        "--output", "-o", metavar="DIR", help="Run folder.  [default: runs/MODEL-CLASSES-METHOD-POLICY-sSEED]"
    ),
)
READING = _options(  # how images are read and given to an extractor
    click.option("--weights", metavar="FILE", help="Inception's weights, if not in torch's hub cache."),
    click.option("--batch", type=click.IntRange(1), help="Images at a time.  [default: 64; 256 on a GPU]"),
    click.option("--size", type=click.IntRange(1), help="Centre-crop every image to this side, as ADM does."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
)


@cli.command()
@MODEL
@click.option("--dry-run", is_flag=True, help="Print the resolved config and what is missing, and stop.")
@click.option("--snapshot-every", type=click.IntRange(1), metavar="N", help="Draw a few images every N steps.")
@click.option("--force", is_flag=True, help="Redo a finished run in a fresh folder, which takes its place at the end.")
@AS_JSON
@DEBUG
@SETTINGS
def run(
    settings: tuple[str, ...],
    as_json: bool,
    debug: bool,
    dry_run: bool,
    snapshot_every: int | None,
    force: bool,
    **asked: Any,
) -> None:
    """Make a model forget classes, then sample and score it beside the original.

    \b
    erase run --forget 3
    erase run --forget 3 --forget 8 --optimizer shared unlearn.forget.lr=1e-4

    Run the same command again to continue a stopped run.
    """
    from .config import RunConfig, merge, parse_words

    request = RunConfig(**asked)
    words = parse_words(settings)
    if snapshot_every is not None:
        words = merge(words, {"runtime": {"snapshot_every": snapshot_every}})
    if dry_run:
        from .dryrun import dry_run as describe

        _say(describe(request, words, as_json))
        return
    from .report.table import result_table
    from .unlearning import run_in_folder

    with graceful():
        results, folder = run_in_folder(request, words, force)
    if as_json:
        click.echo(json.dumps(results, indent=2))
        return
    notes = "".join(f"\nwarning: {note}" for note in results.get("warnings", []))
    _say(f"\n{result_table(results)}{notes}\n\n{folder} ({folder / 'grid.png'} shows before and after)")


@cli.command()
@click.option("--data", metavar="digits|DIR", help="Images, one sub-folder a class.  [default: digits]")
@click.option("--output", "-o", required=True, metavar="PACK", help="Folder of the pack to make.")
@click.option("--preset", metavar="NAME", help="Shipped recipe.  [default: digits/pretrain]")
@click.option("--config", metavar="FILE", help="A YAML file in the preset's place, or over one: base: NAME.")
@click.option(
    "--exclude-class", "exclude", multiple=True, metavar="CLASS", help="Class the DiT never sees; repeatable."
)
@AS_JSON
@DEBUG
@SETTINGS
def pretrain(
    settings: tuple[str, ...],
    as_json: bool,
    debug: bool,
    output: str,
    preset: str | None,
    config: str | None,
    **asked: Any,
) -> None:
    """Make a pack from images: an autoencoder, a DiT on its latents, a classifier and an image gate.

    \b
    erase pretrain --data digits --output my-digits
    erase pretrain --data digits --output no-three --exclude-class 3 instruments=digits

    Run the same command again to continue a stopped training.
    """
    from .config import merge, parse_words
    from .presets import base_values, resolve_pretrain

    given = {key: value for key, value in asked.items() if value}
    words = merge(given, parse_words(settings))
    resolved = resolve_pretrain(base_values(preset, config, "digits/pretrain"), words)
    from .pretraining import pretrain as make

    with graceful():
        about = make(resolved, output)
    _say(json.dumps(about, indent=2) if as_json else f"\n{output}: {_line(about['provenance']['scores'])}")


@cli.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--vae", metavar="DIR", help="Folder or hub id of the VAE to put in.")
@click.option("--num-heads", type=click.IntRange(1), help="Head count of a .pt.  [default: that of S, B, L, XL]")
@click.option("--allow-difference", is_flag=True, help="Write a .pt that the original code draws differently from.")
@AS_JSON
@DEBUG
def convert(source: str, target: str, as_json: bool, debug: bool, **asked: Any) -> None:
    """Convert between the original DiT's checkpoints (.pt) and diffusers folders.

    \b
    erase convert DiT-XL-2-256x256.pt dit-xl-2-256 --vae stabilityai/sd-vae-ft-ema
    erase convert runs/mine/model erased.pt
    """
    from .convert import convert as make

    about = make(source, target, **asked)
    if as_json:
        click.echo(json.dumps(about, indent=2))
        return
    _say(f"{target}: {about['layout']} layout, {about['parameters']:,} parameters, weights {about['weights']}")
    for note in about["notes"]:
        _say(f"note: {note}", err=True)


def _line(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in values.items())


@cli.command()
@AS_JSON
@DEBUG
def methods(as_json: bool, debug: bool) -> None:
    """List the methods and the optimizer policies each can run under."""
    from .methods import matrix

    rows = matrix()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['method']:14}{row['summary']}\n{'':14}needs {', '.join(row['needs'])}")
        if "alternating" not in row["updates"]:
            click.echo(f"{'':14}one step of forget and retain together a round")
        for policy, why in row["policies"].items():
            click.echo(f"{'':14}{policy:10}{'yes' if why is None else 'no: ' + why}")


@cli.command()
@click.argument("config", metavar="CONFIG")
@click.option("--output", "-o", required=True, metavar="DIR", help="Folder of the cells and of the rendered table.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Cells at a time, which share the CPU cores.  [default: one a GPU, else one a core]",
)
@click.option(
    "--keep",
    type=click.Choice(["results", "samples", "all"]),
    default="results",
    show_default=True,
    help="What stays of each run in DIR/cells: results.json and its grid, its samples too, or all.",
)
@click.option("--render", "only_render", is_flag=True, help="Render what is there and run nothing.")
@click.option("--retry", is_flag=True, help="Run also those again that ended in a number that is not finite.")
@AS_JSON
@DEBUG
def table(config: str, as_json: bool, debug: bool, output: str, **asked: Any) -> int:
    """Run a table of methods, settings, classes and seeds from a YAML file, and compare them.

    \b
    erase table digits-policies --output tables
    erase table mine.yaml --output tables --jobs 2

    Run the same command again to continue; cells that are there are not run again. CONFIG is a file, its form as in
    README under "Your own table", or the name of one in configs/tables.
    """
    from pathlib import Path

    from .table.render import short_text
    from .table.run import run_table

    with graceful():
        content = run_table(config, output, **asked)
    text = Path(output) / f"{Path(config).stem}.md"
    _say(json.dumps(content, indent=2) if as_json else f"\n{short_text(content)}\n{text}")
    diverged = content["diverged"]
    again = len(content["failed"]) - diverged
    if asked["only_render"] or not again + diverged:
        return 0
    told = [f"{again} cells failed; the same command tries them again"] if again else []
    told += [f"{diverged} cells ended in a number that is not finite; --retry runs them again"] if diverged else []
    click.echo(f"erase: {'; '.join(told)}", err=True)
    return 1


@cli.command()
@click.argument("sources", metavar="DIR...", nargs=-1, required=True)
@click.option("--reference", required=True, metavar="REF", help="Images, a statistics file, ADM's .npz, or digits.")
@click.option("--extractor", metavar="NAME", help="A pack, its folder, a run.  [default: inception-v3-compat]")
@click.option("--output", "-o", metavar="FILE", help="JSON lines; what is there is not computed again.")
@click.option("--save-reference", metavar="FILE", help="Also write the reference's statistics (.safetensors).")
@READING
@AS_JSON
@DEBUG
def fid(sources: tuple[str, ...], as_json: bool, debug: bool, **asked: Any) -> None:
    """Frechet distances of many folders of images to one reference.

    \b
    erase fid samples-a samples-b --reference real --output fid.jsonl
    erase fid runs/* --reference digits --extractor digits
    erase fid samples.npz --reference VIRTUAL_imagenet256_labeled.npz

    DIR is a folder of images, an .npz of uint8 images, or a run folder (its original and erased samples of the retained
    classes). Run the same command again to continue.
    """
    from .fidelity import fid as measure
    from .fidelity import fid_table

    given = {key: value for key, value in asked.items() if value is not None}
    with graceful():
        rows = measure(list(sources), **given)
    _say(json.dumps(rows, indent=2) if as_json else f"\n{fid_table(rows)}")


@cli.command()
@click.argument("sources", metavar="RUN|DIR...", nargs=-1, required=True)
@click.option("--metrics", metavar="NAME,...", help="fid, kid, isc, prc, fa, ra, ...  [default: all that can be had]")
@click.option("--reference", metavar="REF", help="As for erase fid.  [default: a run's own data]")
@click.option("--extractor", metavar="NAME", help="As for erase fid.  [default: a run's own classifier]")
@click.option("--forget", "-f", multiple=True, metavar="CLASS", help="Forgotten class of a folder that is no run.")
@click.option("--bootstrap", type=click.IntRange(0), help="Resamples for an interval; 0 for none.  [default: 100]")
@READING
@AS_JSON
@DEBUG
def score(sources: tuple[str, ...], as_json: bool, debug: bool, **asked: Any) -> None:
    """Metrics of images that are there, with intervals; nothing is computed twice.

    \b
    erase score runs/digits-3-sfron-dual-s0
    erase score runs/* --metrics fid,kid,fa,neighbours
    erase score samples --reference real --metrics fid,kid,prc
    """
    from .evaluation import score as measure
    from .report.scores import score_table

    given = {key: value for key, value in asked.items() if value is not None}
    with graceful():
        rows = measure(list(sources), **given)
    _say(json.dumps(rows, indent=2) if as_json else f"\n{score_table(rows)}")


@cli.command()
@click.argument("source", metavar="SRC")
@click.option("--output", "-o", required=True, metavar="DIR", help="Folder of the images, CLASS/NUMBER.png.")
@click.option("--classes", default="all", show_default=True, metavar="C,C", help="Classes, by index or name.")
@click.option("--exclude", default="", metavar="C,C", help="Classes to leave out.")
@click.option("--per-class", type=click.IntRange(1), help="Images a class.  [default: the pack's own]")
@click.option("--protocol", metavar="NAME", help="fast (25 steps) or paper (250 steps).  [default: the pack's own]")
@AS_JSON
@DEBUG
@SETTINGS
def sample(
    source: str, settings: tuple[str, ...], as_json: bool, debug: bool, classes: str, exclude: str, **asked: Any
) -> None:
    """Draw images of any classes from any saved model: a pack, a pipeline folder, or a run.

    \b
    erase sample digits --output samples --per-class 500
    erase sample runs/digits-3-sfron-dual-s0 --output more --classes 3 --protocol paper
    erase sample digits --output strong sample.guidance_scale=4

    Images that are there are kept: the same command continues, or adds classes and images.
    """
    from .config import parse_words
    from .samples import draw_samples

    wanted: Any = "all" if classes == "all" else [word for word in classes.split(",") if word.strip()]
    without = [word for word in exclude.split(",") if word.strip()]
    with graceful():
        about = draw_samples(source, classes=wanted, exclude=without, words=parse_words(settings), **asked)
    shown = ", ".join(str(label) for label in about["classes"])
    line = f"{about['output']}: {about['per_class']} images of each class ({shown})"
    _say(json.dumps(about, indent=2) if as_json else f"\n{line}")


@cli.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--output", "-o", required=True, metavar="FILE", help="The PNG to write.")
@click.option(
    "--kind",
    type=click.Choice(["runs", "guidance", "fading"]),
    default="runs",
    show_default=True,
    help="Runs side by side; one run's forgotten class over guidance scales; or over the steps (--snapshot-every).",
)
@AS_JSON
@DEBUG
def grid(runs: tuple[str, ...], output: str, kind: str, as_json: bool, debug: bool) -> None:
    """Draw finished runs before and after, side by side.

    \b
    erase grid runs/digits-3-sfron-dual-s0 runs/digits-3-ga-dual-s0 --output both.png
    erase grid runs/digits-3-sfron-dual-s0 --kind guidance --output guidance.png
    """
    from .report.compare import grid as draw

    written = str(draw(runs, output, kind))
    _say(json.dumps({"output": written, "kind": kind}, indent=2) if as_json else written)


@cli.command()
@click.argument("source", metavar="RUN|TABLE")
@click.option("--output", "-o", metavar="FILE", help="The page to write.  [default: report.html in the folder]")
@AS_JSON
@DEBUG
def report(source: str, output: str | None, as_json: bool, debug: bool) -> None:
    """Write one self-contained HTML page of a run, finished or not, or of a table's folder.

    \b
    erase report runs/digits-3-sfron-dual-s0
    erase report docs/results/digits --output tables.html

    TABLE is the folder that erase table has written, or one table in it as DIR/NAME.
    """
    from .report.page import write_report

    about = write_report(source, output)
    _say(json.dumps(about, indent=2) if as_json else about["output"])
