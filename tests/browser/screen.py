"""What tests of the page share: choosing photographs, and reading what the page shows."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from helpers import decoded

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect, Locator, Page

NAME_OF_LOOPBACK = "photographs.example"
"""To the browser of these tests, 127.0.0.1: a name that, other than localhost, makes no secure address."""

FOUND_BY = {"yunet": "found by YuNet", "haar": "found by Haar"}


def choose(page: Page, *files: Path | tuple[str, bytes]) -> None:
    """Hand files to the page as the file dialog does, and do not wait for anything."""
    page.locator("#files").set_input_files(
        [
            file if isinstance(file, Path) else {"name": file[0], "mimeType": "", "buffer": file[1]}
            for file in files
        ]
    )


def status(page: Page) -> Locator:
    return page.get_by_role("status").first


def card(page: Page, name: str) -> Locator:
    """All that is shown of the photograph of that name."""
    return page.get_by_role("article", name=name, exact=True)


def estimates(answer: dict[str, Any]) -> list[list[str]]:
    """How the page puts the age, the gender and the interval of each face of a prediction."""
    return [
        [
            f"{rounded(face['age']['years'])} years",
            f"{face['gender']['label']} {rounded(100 * face['gender']['probability'])}%",
            f"{rounded(face['age']['low'])} to {rounded(face['age']['high'])} "
            f"in {rounded(100 * face['age']['coverage'])}% of cases",
        ]
        for face in answer["faces"]
    ]


def rounded(value: float, digits: int = 0) -> Decimal:
    """As JavaScript rounds a positive number: halves go up, where Python's formats take the even digit."""
    return Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)


def shown_estimates(section: Locator) -> list[list[str]]:
    return [
        face.locator("p:not(.remarks)").all_inner_texts() for face in section.get_by_role("listitem").all()
    ]


def bounds(shown: Locator) -> FloatRect:
    """Where on the screen it is: x, y, width and height."""
    box = shown.bounding_box()
    assert box is not None
    return box


def shown_boxes(shown: Locator, width: int) -> list[dict[str, float]]:
    """The boxes drawn over a photograph of so many pixels, in pixels of that photograph."""
    photograph = bounds(shown.locator(".frame"))
    scale = width / photograph["width"]
    return [
        {
            "x": (box["x"] - photograph["x"]) * scale,
            "y": (box["y"] - photograph["y"]) * scale,
            "width": box["width"] * scale,
            "height": box["height"] * scale,
        }
        for box in map(bounds, shown.locator(".boxes > div").all())
    ]


def screen_pixels(shown: Locator) -> np.ndarray:
    """What the screen shows there, (height, width, 3) BGR."""
    return decoded(shown.screenshot())


def copied(page: Page, button: str) -> str:
    """What the button of that name puts into the clipboard."""
    page.context.grant_permissions(["clipboard-read"], origin=page.url)
    page.get_by_role("button", name=button).click()
    page.get_by_text("Copied").first.wait_for()
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text
