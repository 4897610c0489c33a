"""The pictures of the page in the README; `pytest tests/browser --screenshots docs` makes them with the real models."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import ASTRONAUT, GRACE_HOPPER, ROOT, YUNET_OPTIONS, Server, serving
from screen import choose, status

pytest.importorskip("playwright.sync_api", reason="needs Playwright: it is in requirements/dev.txt")
from PIL import Image
from playwright.sync_api import Page, expect

MOST_BYTES = 200_000


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where the pictures go."""
    return Path(request.config.getoption("--screenshots", None) or tmp_path)


@pytest.fixture
def shown_server(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Iterator[Server]:
    """A server with the real models, if the pictures are to be kept."""
    if folder == tmp_path:
        yield request.getfixturevalue("server")
        return
    with serving(ROOT / "models", tmp_path, *YUNET_OPTIONS) as running:
        yield running


def save(page: Page, path: Path, full_page: bool = False) -> None:
    """Save what is seen with 128 colours: a photograph bears it, and the file is far smaller."""
    expect(page.locator("canvas")).not_to_have_count(0)
    page.evaluate("Promise.all(Array.from(document.images, (image) => image.decode()))")
    page.mouse.move(0, 0)
    seen = Image.open(io.BytesIO(page.screenshot(full_page=full_page))).convert("RGB")
    path.parent.mkdir(exist_ok=True)
    seen.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MOST_BYTES


def test_on_a_desk_in_light_colours_with_both_models(
    open_page: Callable[..., Page], shown_server: Server, folder: Path
) -> None:
    page = open_page(shown_server, viewport={"width": 1040, "height": 900}, reduced_motion="reduce")
    page.get_by_role("radio", name="Side by side").check()
    choose(page, ASTRONAUT, GRACE_HOPPER)
    expect(status(page)).to_have_text("2 photographs done, 2 faces found")
    save(page, folder / "page-light.png", full_page=True)


def test_on_a_telephone_in_dark_colours(
    open_page: Callable[..., Page], shown_server: Server, folder: Path
) -> None:
    page = open_page(
        shown_server,
        viewport={"width": 390, "height": 844},
        device_scale_factor=1.5,
        is_mobile=True,
        has_touch=True,
        color_scheme="dark",
        reduced_motion="reduce",
    )
    choose(page, ASTRONAUT, GRACE_HOPPER)
    expect(status(page)).to_have_text("2 photographs done, 2 faces found")
    page.locator("#overview").evaluate("overview => overview.scrollIntoView()")
    save(page, folder / "page-dark-phone.png")
