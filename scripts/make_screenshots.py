"""Pictures of a report for the documentation, and the report itself: scripts/make_screenshots.py runs/demo/RUN/camtrain

Needs playwright and Chromium (Debian: apt install chromium).
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from camtrain.report import write_report

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images"
SAMPLE = "sample-report.html"
SECTIONS = {"verdicts": 735, "films": 640, "classes": 420, "confusion": 420, "failures": 780}  # most rows


def shoot(page: Any, name: str, height: int, folder: Path) -> Path:
    """A section of the page, cut off below `height`."""
    page.evaluate("name => document.getElementById(name).scrollIntoView()", name)
    box = page.locator(f"#{name}").bounding_box()
    clip = {"x": 0, "y": max(0, box["y"]), "width": 1200, "height": min(height, box["height"] + 24)}
    path = folder / f"report-{name}.jpg"
    page.screenshot(path=path, clip=clip, type="jpeg", quality=82)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    options = parser.parse_args()
    write_report(options.run, options.out.parent / SAMPLE, side=80)
    report = write_report(options.run)
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.goto(report.absolute().as_uri())
        for name, height in SECTIONS.items():
            path = shoot(page, name, height, options.out)
            print(f"{path} {path.stat().st_size // 1024} KiB")
        browser.close()


if __name__ == "__main__":
    main()
