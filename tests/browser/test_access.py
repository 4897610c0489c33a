"""By keyboard, on a telephone, in the dark, and for screen readers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers import ASTRONAUT, GRACE_HOPPER, Server, png, side_by_side
from screen import bounds, card, choose, estimates, screen_pixels, shown_boxes, shown_estimates, status

pytest.importorskip("playwright.sync_api", reason="needs Playwright: it is in requirements/dev.txt")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
from playwright.sync_api import Page, expect  # noqa: E402

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
TOUCHABLE = 44
"""Pixels that a finger needs."""


def check_axe(page: Page) -> None:
    page.mouse.move(0, 0)  # what the pointer happens to be over is painted differently
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize(
    ("settings", "colours"), [({}, "light"), (PHONE, "dark")], ids=["desk, light", "phone, dark"]
)
def test_axe_finds_nothing_wrong(
    open_page: Callable[..., Page], server: Server, settings: dict[str, object], colours: str
) -> None:
    # Colours that are on their way from one to another would be measured half way.
    page = open_page(server, **settings, color_scheme=colours, reduced_motion="reduce")
    expect(page.get_by_role("radio", name="age_gender_B")).to_be_checked()
    check_axe(page)
    choose(page, ("both.png", png(side_by_side())), ("list.txt", b"bread"))
    page.get_by_role("radio", name="Side by side").check()
    expect(status(page)).to_have_text("2 photographs done, 2 faces found, 1 problem")
    check_axe(page)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("dialog")).to_contain_text("refused")
    check_axe(page)


def test_axe_finds_nothing_wrong_where_a_key_is_needed(
    open_page: Callable[..., Page], bare_server: Server
) -> None:
    page = open_page(bare_server, color_scheme="dark", reduced_motion="reduce")
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("alert")).to_contain_text("did not take this key")
    check_axe(page)


def test_all_can_be_done_by_keyboard(page: Page, server: Server) -> None:
    page.context.grant_permissions(["clipboard-read"], origin=server.url)
    page.on("filechooser", lambda chooser: chooser.set_files([ASTRONAUT, GRACE_HOPPER]))
    expect(page.get_by_role("radio", name="age_gender_B")).to_be_checked()

    def tab_to(name: str) -> None:
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        expect(focused).to_have_accessible_name(name)
        # The ring is around the control, or around the label that stands for it.
        assert focused.evaluate(
            "e => [e, e.parentElement].some(x => parseFloat(getComputedStyle(x).outlineWidth) >= 2 "
            "&& getComputedStyle(x).outlineStyle !== 'none' && getComputedStyle(x).opacity > 0)"
        )

    tab_to("API reference")
    tab_to("Choose photographs")
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text("2 photographs done, 2 faces found")
    tab_to("Use the camera")
    tab_to("Tiny age_gender_B")
    page.keyboard.press("ArrowLeft")
    expect(status(page)).to_have_text("2 photographs done, 2 faces found")
    of_a = estimates(server.predict(ASTRONAUT.read_bytes(), model="age_gender_A").json())
    assert shown_estimates(card(page, "astronaut.jpg")) == of_a
    tab_to("Face detector")
    page.keyboard.press("h")
    expect(card(page, "astronaut.jpg")).to_contain_text("found by Haar")
    tab_to("Age interval")
    page.keyboard.press("9")
    expect(card(page, "astronaut.jpg")).to_contain_text("in 90% of cases")
    tab_to("Remove all")
    tab_to("Remove astronaut.jpg")
    tab_to("Copy JSON: astronaut.jpg, Tiny")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Copied").first).to_be_visible()
    assert '"model": "age_gender_A"' in page.evaluate("navigator.clipboard.readText()")
    tab_to("Copy curl: astronaut.jpg, Tiny")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(card(page, "astronaut.jpg")).to_have_count(0)
    # The focus goes to what is near, not back to the top.
    expect(page.get_by_role("button", name="Remove grace_hopper.jpg")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Choose photographs")).to_be_focused()


def test_the_focus_stays_while_another_answer_comes(page: Page) -> None:
    page.get_by_role("radio", name="Side by side").check()
    held = []
    page.route("**/predict?*model=age_gender_B*", lambda route: held.append(route))
    with page.expect_request("**/predict?*model=age_gender_B*"):
        choose(page, ASTRONAUT)
    copy = page.get_by_role("button", name="Copy JSON")
    copy.focus()
    held.pop().continue_()
    expect(copy).to_have_count(2)
    expect(copy.first).to_be_focused()


def test_fits_a_telephone(open_page: Callable[..., Page], server: Server) -> None:
    page = open_page(server, **PHONE)
    expect(page.get_by_role("radio", name="age_gender_B")).to_be_checked()
    too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(too_wide) == 0
    image = png(side_by_side())
    choose(page, ("a-rather-long-name-such-as-telephones-give-to-them_20260102_030405.png", image))
    expect(status(page)).to_have_text("1 photograph done, 2 faces found")
    expect(status(page)).to_be_in_viewport()  # without scrolling by hand
    page.get_by_role("radio", name="Side by side").tap()
    expect(status(page)).to_have_text("1 photograph done, 2 faces found")
    assert page.evaluate(too_wide) == 0
    shown = page.get_by_role("article")
    answer = server.predict(image).json()
    for drawn, face in zip(shown_boxes(shown, 1024), answer["faces"], strict=True):
        assert drawn == pytest.approx(face["box"], abs=5)  # 3 pixels of the photograph to 1 of the screen
    above, below = map(bounds, shown.locator(".answer").all())
    assert above["y"] + above["height"] < below["y"]
    for box in map(bounds, page.locator("button:visible, select:visible, #models label").all()):
        assert box["height"] >= TOUCHABLE
        assert 0 <= box["x"] < box["x"] + box["width"] <= 360


def test_follows_the_choice_of_light_or_dark(open_page: Callable[..., Page], server: Server) -> None:
    page = open_page(server, color_scheme="dark")
    assert screen_pixels(page.locator("body")).mean() < 60
    page.emulate_media(color_scheme="light")
    page.evaluate("Promise.all(document.getAnimations().map((change) => change.finished))")
    assert screen_pixels(page.locator("body")).mean() > 220
