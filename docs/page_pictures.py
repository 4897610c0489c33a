"""Make the pictures of the page in README.md, of a running service: `python docs/page_pictures.py http://localhost:8000`."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

DOCS = Path(__file__).parent
PHOTOGRAPHS = [
    DOCS.parent / "examples/astronaut.jpg",
    DOCS.parent / "tests/photographs/grace_hopper.jpg",
]


def save(page: Page, name: str, full_page: bool = False) -> None:
    """Save what is seen with 128 colours: a photograph bears it, and the file is far smaller."""
    expect(page.get_by_role("status").first).to_have_text("2 photographs done, 2 faces found")
    page.evaluate("Promise.all(Array.from(document.images, (image) => image.decode()))")
    page.mouse.move(0, 0)
    seen = Image.open(io.BytesIO(page.screenshot(full_page=full_page))).convert("RGB")
    few = seen.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(DOCS / name, optimize=True)


def main(url: str) -> None:
    """Make one on a desk in light colours with all models, and one on a telephone in dark colours."""
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=shutil.which("chromium"))
        desk = browser.new_page(viewport={"width": 1040, "height": 900}, reduced_motion="reduce")
        desk.goto(url)
        desk.get_by_role("radio", name="Side by side").check()
        desk.locator("#files").set_input_files(PHOTOGRAPHS)
        save(desk, "page-light.png", full_page=True)
        telephone = browser.new_page(
            viewport={"width": 390, "height": 844},
            device_scale_factor=1.5,
            is_mobile=True,
            has_touch=True,
            color_scheme="dark",
            reduced_motion="reduce",
        )
        telephone.goto(url)
        telephone.locator("#files").set_input_files(PHOTOGRAPHS)
        expect(telephone.locator("canvas")).to_have_count(2)
        telephone.locator("#overview").evaluate("overview => overview.scrollIntoView()")
        save(telephone, "page-dark-phone.png")


if __name__ == "__main__":
    main(sys.argv[1])
