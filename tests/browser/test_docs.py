"""The interactive reference, in a browser that sees nothing but the service."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers import ASTRONAUT, GRACE_HOPPER, Server

pytest.importorskip("playwright.sync_api", reason="needs Playwright: it is in requirements/dev.txt")
from playwright.sync_api import BrowserContext, expect


def test_it_takes_a_photograph_and_a_key(
    new_context: Callable[..., BrowserContext], bare_server: Server, keys: tuple[str, str]
) -> None:
    page = new_context().new_page()
    page.goto(f"{bare_server.url}/docs")
    page.get_by_role("button", name="Authorize").click()
    page.get_by_label("Value").fill(keys[0])
    page.get_by_role("button", name="Apply credentials").click()
    page.get_by_role("button", name="Close").first.click()
    page.get_by_role("button", name="POST /predict", exact=False).first.click()
    page.get_by_role("button", name="Try it out").click()
    page.locator("input[type=file]").set_input_files(ASTRONAUT)
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text('"years"')


def test_it_takes_several_photographs(new_context: Callable[..., BrowserContext], server: Server) -> None:
    page = new_context().new_page()
    page.goto(f"{server.url}/docs")
    page.get_by_role("button", name="POST /predict/batch", exact=False).first.click()
    page.get_by_role("button", name="Try it out").click()
    page.locator("input[type=file]").set_input_files(ASTRONAUT)
    page.get_by_role("button", name="Add string item").click()
    page.locator("input[type=file]").nth(1).set_input_files(GRACE_HOPPER)
    page.get_by_role("button", name="Execute").click()
    for name in (ASTRONAUT.name, GRACE_HOPPER.name):
        expect(page.locator(".live-responses-table")).to_contain_text(f'"filename": "{name}"')
