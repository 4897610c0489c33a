from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import (
    ASTRONAUT,
    GRACE_HOPPER,
    Server,
    grey,
    jpeg,
    needs_yunet,
    pixels,
    png,
    run_program,
    side_by_side,
    turned,
)
from screen import (
    FOUND_BY,
    bounds,
    card,
    choose,
    copied,
    estimates,
    rounded,
    screen_pixels,
    shown_boxes,
    shown_estimates,
    status,
)

pytest.importorskip("playwright.sync_api", reason="needs Playwright: it is in requirements/dev.txt")
from playwright.sync_api import Page, expect

BOTH = png(side_by_side())


def check_boxes(page: Page, server: Server, name: str, image: bytes, **query: str) -> None:
    """Assert that the page draws and lists what the service says of that photograph."""
    answer = server.predict(image, **query).json()
    shown = card(page, name)
    expect(shown.locator(".boxes > div")).to_have_count(len(answer["faces"]))
    for drawn, face in zip(shown_boxes(shown, answer["image"]["width"]), answer["faces"], strict=True):
        assert drawn == pytest.approx(face["box"], abs=2)
    assert shown_estimates(shown) == estimates(answer)
    expect(shown).to_contain_text(FOUND_BY[answer["detector"]])


def test_shows_as_many_boxes_as_faces_where_the_service_says_that_they_are(
    page: Page, server: Server
) -> None:
    choose(page, ("both.png", BOTH))
    expect(status(page)).to_have_text("1 photograph done, 2 faces found")
    check_boxes(page, server, "both.png", BOTH)
    assert len(shown_boxes(card(page, "both.png"), 1024)) == 2
    # The photograph itself is there too, under them.
    seen = screen_pixels(card(page, "both.png").locator(".frame"))
    expected = cv2.resize(side_by_side(), seen.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert cv2.absdiff(seen, expected).mean() < 12


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_photograph_that_is_stored_turned_is_shown_upright_with_its_boxes(
    page: Page, server: Server, orientation: int
) -> None:
    image = turned(pixels(GRACE_HOPPER), orientation)
    choose(page, ("turned.jpg", image))
    expect(status(page)).to_have_text("1 photograph done, 1 face found")
    check_boxes(page, server, "turned.jpg", image)
    shown = bounds(card(page, "turned.jpg").locator("img"))
    assert shown["width"] / shown["height"] == pytest.approx(512 / 600, abs=0.01)


def test_each_face_is_shown_beside_its_estimates(page: Page) -> None:
    red = grey(0, 400, 200)
    red[:, :, 2] = 200
    page.get_by_label("Face detector").select_option("none")
    choose(page, ("red.png", png(red)))
    portrait = card(page, "red.png").locator("canvas")
    expect(portrait).to_be_visible()
    page.locator("img").evaluate("image => image.decode()")
    # The whole image is taken for one face: in the middle it is red, and nothing is above it and below.
    seen = screen_pixels(portrait)
    assert seen[24, 24].tolist() == pytest.approx([0, 0, 200], abs=2)
    assert np.ptp(seen[4, 24]) < 20


def test_switches_models_and_shows_both_side_by_side(page: Page, server: Server) -> None:
    of_a, of_b = (
        estimates(server.predict(BOTH, model=model).json()) for model in ("age_gender_A", "age_gender_B")
    )
    assert of_a != of_b
    models = page.get_by_role("group", name="Model")
    expect(models.get_by_role("radio", name="age_gender_B")).to_be_checked()  # the default of the service
    choose(page, ("both.png", BOTH))
    expect(status(page)).to_have_text("1 photograph done, 2 faces found")
    shown = card(page, "both.png")
    assert shown_estimates(shown) == of_b

    models.get_by_role("radio", name="age_gender_A").check()
    expect(status(page)).to_have_text("1 photograph done, 2 faces found")
    assert shown_estimates(shown) == of_a

    models.get_by_role("radio", name="Side by side").check()
    expect(status(page)).to_have_text("1 photograph done, 2 faces found")
    sections = shown.locator(".answer").all()
    assert [shown_estimates(section) for section in sections] == [of_a, of_b]
    left, right = map(bounds, sections)
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    expect(shown.locator(".boxes > div")).to_have_count(2)


def test_switches_detectors(page: Page, server: Server) -> None:
    detector = page.get_by_label("Face detector")
    found_by = server.predict(BOTH).json()["detector"]
    expect(detector.locator("option:checked")).to_have_text(
        {"yunet": "Automatic: YuNet", "haar": "Automatic: Haar"}[found_by]
    )
    choose(page, ("both.png", BOTH))
    detector.select_option("haar")
    expect(card(page, "both.png")).to_contain_text("found by Haar")
    check_boxes(page, server, "both.png", BOTH, detector="haar")
    detector.select_option("none")
    expect(card(page, "both.png")).to_contain_text("Taken as one cropped face")
    (whole,) = shown_boxes(card(page, "both.png"), 1024)
    assert whole == pytest.approx({"x": 0, "y": 0, "width": 1024, "height": 600}, abs=2)


def test_the_bar_spans_the_interval_on_a_scale_of_a_hundred_years(page: Page, server: Server) -> None:
    image = ASTRONAUT.read_bytes()
    age = server.faces(image)[0]["age"]
    choose(page, ASTRONAUT)
    scale, interval, mark = (
        bounds(card(page, "astronaut.jpg").locator(part)) for part in (".scale", ".range", ".mark")
    )
    year = scale["width"] / 100
    assert (interval["x"] - scale["x"]) / year == pytest.approx(age["low"], abs=0.3)
    assert interval["width"] / year == pytest.approx(age["high"] - age["low"], abs=0.3)
    assert (mark["x"] + mark["width"] / 2 - scale["x"]) / year == pytest.approx(age["years"], abs=0.3)


def test_the_interval_is_of_the_chosen_coverage(page: Page, server: Server) -> None:
    choose(page, ("both.png", BOTH))
    for coverage, shown in (("0.95", "95%"), ("0.5", "50%")):
        page.get_by_label("Age interval").select_option(shown)
        expect(card(page, "both.png")).to_contain_text(f"in {shown} of cases")
        check_boxes(page, server, "both.png", BOTH, coverage=coverage)


def test_the_curve_shows_the_probability_of_each_age_on_the_same_scale(page: Page, server: Server) -> None:
    image = ASTRONAUT.read_bytes()
    (face,) = server.faces(image, distribution=True)
    probabilities = np.array(face["age"]["distribution"])
    choose(page, ASTRONAUT)
    curve, scale = (card(page, "astronaut.jpg").locator(part) for part in (".distribution", ".scale"))
    expect(curve).to_be_visible()
    drawn, below = bounds(curve), bounds(scale)
    assert (drawn["x"], drawn["width"]) == (below["x"], below["width"])
    seen = screen_pixels(curve).astype(int)
    filled = np.abs(seen - seen[0, 0]).max(axis=2) > 20  # the corner, of no age, is empty
    years = np.arange(filled.shape[1]) / filled.shape[1] * 100
    expected = np.interp(years, np.arange(101), probabilities / probabilities.max())
    assert filled.mean(axis=0) == pytest.approx(expected, abs=0.1)


def test_says_what_the_service_took_how_long(page: Page) -> None:
    with page.expect_response("**/predict?*") as response:
        choose(page, ASTRONAUT)
    spent = {stage: rounded(ms, 1) for stage, ms in response.value.json()["timings_ms"].items()}
    expect(card(page, "astronaut.jpg")).to_contain_text(
        f"{spent['total']} ms: decode {spent['decode']} ms, "
        f"detect {spent['detect']} ms, predict {spent['predict']} ms"
    )


def test_says_so_where_there_is_no_face(page: Page) -> None:
    choose(page, ("grey.png", png(grey())))
    expect(card(page, "grey.png")).to_contain_text("No face found by")
    expect(status(page)).to_have_text("1 photograph done, 0 faces found")


def test_asks_for_several_photographs_one_by_one_and_says_how_far_it_is(page: Page, tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(png(grey()))
    held = []
    page.route("**/predict?*", lambda route: held.append(route))
    with page.expect_request("**/predict?*"):
        choose(page, ASTRONAUT, GRACE_HOPPER, tmp_path / "grey.png")
    for done in range(3):
        expect(status(page)).to_have_text(f"{done} of 3 photographs done")
        expect(page.get_by_role("progressbar")).to_have_js_property("value", done)
        assert len(held) == 1
        if done < 2:
            with page.expect_request("**/predict?*"):
                held.pop().continue_()
        else:
            held.pop().continue_()
    expect(status(page)).to_have_text("3 photographs done, 2 faces found")
    expect(page.get_by_role("progressbar")).to_be_hidden()
    names = [shown.text_content() for shown in page.get_by_role("heading", level=3).all()]
    assert names == ["astronaut.jpg", "grace_hopper.jpg", "grey.png"]


def test_a_photograph_taken_away_does_not_hold_up_the_others(page: Page) -> None:
    held = []
    page.route("**/predict?*", lambda route: held.append(route), times=1)
    with page.expect_request("**/predict?*"):
        choose(page, ASTRONAUT, GRACE_HOPPER)
    expect(status(page)).to_have_text("0 of 2 photographs done")
    page.get_by_role("button", name="Remove astronaut.jpg").click()
    expect(status(page)).to_have_text("1 photograph done, 1 face found")
    expect(card(page, "astronaut.jpg")).to_have_count(0)
    page.get_by_role("button", name="Remove all").click()
    expect(page.get_by_role("article")).to_have_count(0)
    expect(status(page)).to_have_text("")


def test_takes_photographs_that_are_dropped_anywhere(page: Page) -> None:
    drag = page.evaluate_handle(
        """encoded => {
          const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
          const drag = new DataTransfer();
          drag.items.add(new File([bytes], "dropped.jpg"));
          return drag;
        }""",
        base64.b64encode(ASTRONAUT.read_bytes()).decode(),
    )
    page.dispatch_event("footer", "drop", {"dataTransfer": drag})
    expect(card(page, "dropped.jpg")).to_contain_text("1 face found")
    page.dispatch_event("footer", "drop", {"dataTransfer": page.evaluate_handle("new DataTransfer()")})
    expect(page.get_by_role("alert")).to_contain_text("What you dropped is no file.")


def test_takes_photographs_that_are_pasted(page: Page, server: Server) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    page.evaluate(
        """encoded => {
          const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
          const image = new Blob([bytes], { type: "image/png" });
          return navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
        }""",
        base64.b64encode(png(pixels(ASTRONAUT))).decode(),
    )
    page.keyboard.press("Control+V")
    expect(status(page)).to_have_text("1 photograph done, 1 face found")
    page.evaluate("navigator.clipboard.writeText('words')")
    page.keyboard.press("Control+V")
    expect(page.get_by_role("alert")).to_have_text("There is no photograph to paste. Copy one first.")


def test_takes_a_photograph_with_the_camera_and_lets_go_of_it(page: Page, server: Server) -> None:
    page.context.grant_permissions(["camera"], origin=server.url)
    page.get_by_role("button", name="Use the camera").click()
    dialog = page.get_by_role("dialog", name="Camera")
    dialog.get_by_role("button", name="Take the photograph").click()
    expect(dialog).to_be_hidden()
    expect(status(page)).to_have_text("1 photograph done, 0 faces found")  # of the test picture
    seen = screen_pixels(card(page, "camera.jpg").locator("img"))
    assert seen.shape[0] > 100
    assert seen.std() > 20
    assert page.locator("video").evaluate("video => video.srcObject") is None


def test_copies_the_json(page: Page) -> None:
    with page.expect_response("**/predict?*") as response:
        choose(page, ("both.png", BOTH))
    text = copied(page, "Copy JSON: both.png")
    assert json.loads(text) == response.value.json()
    assert len(text.splitlines()) < 100  # the 101 probabilities of a face are on one line


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_copies_a_curl_that_answers_the_same(page: Page, server: Server, tmp_path: Path) -> None:
    name = 'it\'s "one"; two, $HOME.png'
    (tmp_path / name).write_bytes(BOTH)
    page.get_by_role("radio", name="age_gender_A").check()
    page.get_by_label("Face detector").select_option("haar")
    choose(page, (name, BOTH))
    command = copied(page, "Copy curl")
    answer = json.loads(run_program("sh", "-c", command, cwd=tmp_path).stdout)
    assert answer["faces"] == server.faces(BOTH, model="age_gender_A", detector="haar", distribution=True)
    assert (answer["model"], answer["detector"]) == ("age_gender_A", "haar")


def test_a_key_is_asked_for_used_and_forgotten(
    page: Page, bare_server: Server, keys: tuple[str, str], tmp_path: Path
) -> None:
    image = jpeg(pixels(ASTRONAUT))
    (tmp_path / "astronaut.jpg").write_bytes(image)
    page.goto(bare_server.url)
    key = page.get_by_label("API key")
    expect(key).to_be_visible()
    choose(page, ("astronaut.jpg", image))
    expect(status(page)).to_have_text("1 photograph waiting")

    key.fill("a wrong one")
    key.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The service did not take this key.")
    key.fill(keys[1])
    key.press("Enter")
    expect(status(page)).to_have_text("1 photograph done, 1 face found")
    expect(page.get_by_role("alert")).to_be_hidden()

    # This service lacks YuNet, and has one model.
    expect(page.get_by_role("radio", name="Side by side")).to_have_count(0)
    expect(page.get_by_role("option", name="YuNet, not installed")).to_be_disabled()

    command = copied(page, "Copy curl")
    assert keys[1] not in command
    if shutil.which("curl"):
        ran = run_program("sh", "-c", command, cwd=tmp_path, env={**os.environ, "API_KEY": keys[1]})
        assert len(json.loads(ran.stdout)["faces"]) == 1

    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    page.reload()
    expect(key).to_have_value("")


@needs_yunet
def test_says_what_makes_an_estimate_less_reliable(page: Page) -> None:
    lying = png(np.ascontiguousarray(np.rot90(pixels(ASTRONAUT))))
    choose(page, ("astronaut.jpg", ASTRONAUT.read_bytes()), ("lying.png", lying))
    expect(status(page)).to_have_text("2 photographs done, 2 faces found")
    expect(card(page, "astronaut.jpg").locator(".remarks")).to_be_hidden()
    expect(card(page, "lying.png").locator(".remarks")).to_have_text("Less reliable: turned by -87°")
