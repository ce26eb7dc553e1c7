"""The pictures of README's part on reports: a run's page, its neighbour table, and a table's page, in a browser.

    erase run --forget 3 --snapshot-every 20 && erase score runs/digits-3-sfron-dual-s0
    python scripts/screenshots.py runs/digits-3-sfron-dual-s0 docs/results/digits

Needs Chromium or Chrome, and writes docs/results/{report,neighbours,report-table}.png.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

import erase

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TALLEST = 14000  # pixels of a page; what is left empty below is cut off


def find_browser() -> str:
    found = [path for path in (shutil.which(name) for name in (os.environ.get("BROWSER", ""), *BROWSERS)) if path]
    if not found:
        sys.exit(f"no browser is here ({', '.join(BROWSERS)}, or the path in BROWSER); no picture was made")
    return found[0]


def photograph(
    browser: str,
    page: Path,
    picture: Path,
    width: int,
    only: str = "",
    dark: bool = False,
    top: int | None = None,
) -> None:
    """A PNG of the page, ``width`` CSS pixels wide, cut to the section ``only`` or to its first ``top`` pixels."""
    with tempfile.TemporaryDirectory() as scratch:
        text = page.read_text(encoding="utf-8")
        if only:
            style = f"header, footer, section:not(#{only}) {{ display: none }} h2 {{ border: 0; margin-top: 0 }}"
            text = text.replace("</head>", f"<style>{style}</style></head>", 1)
        # a frame, for a browser's window cannot be as narrow as a phone
        (Path(scratch) / "page.html").write_text(text, encoding="utf-8")
        frame = f'<body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:{TALLEST}px">'
        (Path(scratch) / "frame.html").write_text(f"<!doctype html>{frame}", encoding="utf-8")
        raw = Path(scratch) / "raw.png"
        words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        words += [f"--window-size={max(width, 500)},{top or TALLEST}"]
        words += [f"--screenshot={raw}", f"--user-data-dir={scratch}/profile"]
        words += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"file://{scratch}/frame.html"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=180)
        if not raw.is_file():
            sys.exit(f"{browser} made no picture of {page}: {done.stderr.strip()[-300:]}")
        with Image.open(raw) as opened:
            image = opened.convert("RGB").crop((0, 0, width, opened.height))
    empty = Image.new("RGB", image.size, image.getpixel((image.width - 1, image.height - 1)))
    box = ImageChops.difference(image, empty).getbbox()
    if box is not None and top is None:
        image = image.crop((0, 0, image.width, min(image.height, box[3] + 16)))
    picture.parent.mkdir(parents=True, exist_ok=True)
    image.save(picture, optimize=True)
    print(f"{picture}: {image.width} x {image.height}, {picture.stat().st_size >> 10} KiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run, scored and with snapshots")
    parser.add_argument("tables", type=Path, help="a table's folder, or one table in it as DIR/NAME")
    parser.add_argument("--output", type=Path, default=Path("docs/results"), help="folder of the pictures")
    parser.add_argument("--every", action="store_true", help="also narrow and dark, to look at")
    asked = parser.parse_args()
    browser = find_browser()
    with tempfile.TemporaryDirectory() as scratch:
        run = erase.report(asked.run, Path(scratch) / "run.html")
        table = erase.report(asked.tables, Path(scratch) / "table.html")
        photograph(browser, run, asked.output / "report.png", 1180, top=1488)
        photograph(browser, run, asked.output / "neighbours.png", 1180, only="classes")
        photograph(browser, table, asked.output / "report-table.png", 1180, top=1800)
        for page, name in ((run, "report"), (table, "report-table")) if asked.every else ():
            for width in (1180, 390):
                for dark in (False, True):
                    light = "dark" if dark else "light"
                    photograph(browser, page, asked.output / f"{name}-{width}-{light}.png", width, dark=dark)


if __name__ == "__main__":
    main()
