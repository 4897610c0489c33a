"""What the page says where something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ASTRONAUT, Server
from screen import NAME_OF_LOOPBACK, card, choose, shown_boxes, status

pytest.importorskip("playwright.sync_api", reason="needs Playwright: it is in requirements/dev.txt")
from playwright.sync_api import BrowserContext, Page, expect


@pytest.mark.parametrize(
    ("name", "content"),
    [("list.txt", b"A shopping list: bread, milk, eggs."), ("empty.png", b"")],
    ids=["text", "empty"],
)
def test_says_what_the_service_says_of_what_is_no_photograph(
    page: Page, server: Server, tmp_path: Path, name: str, content: bytes
) -> None:
    problem = server.predict(content).json()
    (tmp_path / name).write_bytes(content)
    choose(page, tmp_path / name, ASTRONAUT)
    expect(status(page)).to_have_text("2 photographs done, 1 face found, 1 problem")
    expect(card(page, name)).to_contain_text(problem["title"])
    expect(card(page, name)).to_contain_text(problem["detail"])
    expect(card(page, "astronaut.jpg")).to_contain_text("1 face found")


def test_says_that_the_service_cannot_be_reached(page: Page) -> None:
    expect(page.get_by_role("radio").first).to_be_visible()
    page.context.set_offline(True)
    choose(page, ASTRONAUT)
    shown = card(page, "astronaut.jpg")
    expect(shown).to_contain_text("The service could not be reached.")
    page.context.set_offline(False)
    shown.get_by_role("button", name="Try again").click()
    expect(shown).to_contain_text("1 face found")


@pytest.mark.parametrize(
    ("status_code", "body"),
    [(200, "<h1>Log in</h1>"), (504, '{"message": "time out"}')],
)
def test_says_that_something_else_answered(page: Page, status_code: int, body: str) -> None:
    page.route("**/predict?*", lambda route: route.fulfill(status=status_code, body=body))
    choose(page, ASTRONAUT)
    expect(card(page, "astronaut.jpg")).to_contain_text(
        f"Something between this page and the service answered in its place, with status {status_code}."
    )


def test_a_page_that_opens_before_the_service_is_there_tries_again(
    new_context: Callable[..., BrowserContext], server: Server
) -> None:
    page = new_context().new_page()
    page.route("**/models", lambda route: route.abort(), times=1)
    page.goto(server.url)
    expect(page.get_by_role("alert")).to_contain_text("The service could not be reached.")
    choose(page, ASTRONAUT)
    expect(status(page)).to_have_text("1 photograph waiting")
    page.get_by_role("alert").get_by_role("button", name="Try again").click()
    expect(status(page)).to_have_text("1 photograph done, 1 face found")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_boxes_are_shown_where_the_browser_cannot_show_the_photograph(page: Page, server: Server) -> None:
    # Chromium shows all that the service reads; here, it is made to fail.
    page.evaluate("void (URL.createObjectURL = () => 'page/no-such.png')")
    choose(page, ASTRONAUT)
    shown = card(page, "astronaut.jpg")
    expect(shown).to_contain_text("Your browser cannot show this file.")
    expect(shown).to_contain_text("1 face found")
    (box,) = shown_boxes(shown, 512)
    assert box == pytest.approx(server.faces(ASTRONAUT.read_bytes())[0]["box"], abs=2)


def test_a_file_that_went_away_is_said_to_be_unreadable(page: Page) -> None:
    page.evaluate("void (File.prototype.arrayBuffer = () => Promise.reject(new DOMException()))")
    choose(page, ASTRONAUT)
    expect(card(page, "astronaut.jpg")).to_contain_text("The browser cannot read this file")


def test_says_that_the_camera_was_refused(page: Page) -> None:
    page.get_by_role("button", name="Use the camera").click()
    dialog = page.get_by_role("dialog", name="Camera")
    expect(dialog).to_contain_text("The camera was refused. Allow it for this page")
    expect(dialog.get_by_role("button", name="Take the photograph")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Use the camera")).to_be_focused()


def test_an_address_without_encryption_has_no_camera_but_copies(page: Page, server: Server) -> None:
    page.goto(server.url.replace("127.0.0.1", NAME_OF_LOOPBACK))
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("dialog")).to_contain_text("only to pages from https or localhost")
    page.get_by_role("button", name="Close").click()
    choose(page, ASTRONAUT)
    copy = page.get_by_role("button", name="Copy curl")
    copy.click()
    expect(copy).to_have_text("Copied")
    expect(copy).to_be_focused()
    page.goto(server.url)
    page.context.grant_permissions(["clipboard-read"], origin=server.url)
    assert "curl -H" in page.evaluate("navigator.clipboard.readText()")
