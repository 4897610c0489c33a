"""Many requests at once, more than there is room for, callers who leave, and the signal to stop."""

from __future__ import annotations

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import (
    ASTRONAUT,
    FORM,
    FORM_END,
    GRACE_HOPPER,
    IMAGE,
    PATIENCE,
    Server,
    Upload,
    check_problem,
    jpeg,
    part,
    pixels,
    png,
    serving,
    side_by_side,
    turned,
    without_timings,
)


def test_64_requests_at_once_are_answered_as_one_after_the_other(server: Server) -> None:
    images = [
        ASTRONAUT.read_bytes(),
        GRACE_HOPPER.read_bytes(),
        jpeg(side_by_side()),
        turned(pixels(ASTRONAUT), 6),
        png(pixels(GRACE_HOPPER)),
        IMAGE,
        b"this is no image",
        ASTRONAUT.read_bytes()[:20_000],
    ]
    asked = [
        (image, {"detector": detector, "model": model})
        for image in images
        for detector in ("auto", "none")
        for model in ("age_gender_A", "age_gender_B")
    ]

    def ask(one: tuple[bytes, dict[str, str]]) -> tuple[int, dict[str, Any]]:
        image, query = one
        answer = server.predict(image, **query)
        return answer.status_code, {**without_timings(answer.json()), "request_id": None}

    with ThreadPoolExecutor(64) as callers:
        together = list(callers.map(ask, 2 * asked))
    assert [status for status, _ in together] == 2 * (24 * [200] + 8 * [400])
    assert together == 2 * list(map(ask, asked))


def test_a_caller_who_leaves_while_sending_is_forgotten(narrow_server: Server) -> None:
    for sent in (0, len(IMAGE) - 1):
        upload = Upload(narrow_server, length=len(IMAGE), **{"X-Request-ID": f"left-after-{sent}"})
        upload.send(IMAGE[:sent])
        assert "\nagegender_admitted 1.0\n" in narrow_server.client.get("/metrics").text
        upload.leave()
        assert narrow_server.request_line(f"left-after-{sent}")["status"] == 499
        assert "\nagegender_admitted 0.0\n" in narrow_server.client.get("/metrics").text
        assert narrow_server.predict(IMAGE).status_code == 200


def test_the_signal_to_stop_lets_what_was_accepted_finish_and_takes_nothing_new(
    models_folder: Path, empty_cache: Path
) -> None:
    image = ASTRONAUT.read_bytes()
    form = 4 * part("images", image) + FORM_END
    patient = f"--drain-timeout={PATIENCE}"  # also where other work slows the machine down
    with serving(models_folder, empty_cache, "--workers=1", "--queue-size=3", patient) as server:
        accepted = [
            Upload(server, path="/predict?detector=haar", length=len(image), content_type="image/jpeg")
            for _ in range(3)
        ]
        batch = Upload(server, path="/predict/batch?detector=haar", length=len(form), content_type=FORM)
        for upload in accepted:
            upload.send(image[:1000])
        batch.send(form[:1000])
        server.process.terminate()
        server.wait_for_line("Waiting for connections to close")  # by then its socket is closed
        with pytest.raises(httpx.ConnectError):
            httpx.post(f"{server.url}/predict", content=image, trust_env=False)
        for upload in accepted:
            upload.send(image[1000:])
        batch.send(form[1000:])
        answers = [upload.answer() for upload in accepted]
        assert [(answer.status_code, len(answer.json()["faces"])) for answer in answers] == 3 * [(200, 1)]
        results = batch.answer().json()["results"]
        assert [len(result["prediction"]["faces"]) for result in results] == 4 * [1]
        assert server.end() == 0
    assert server.log().count('"status": 200') == 4
    assert '"level": "error"' not in server.log()


def test_what_is_unfinished_when_the_time_to_finish_is_over_is_told_so(
    models_folder: Path, empty_cache: Path
) -> None:
    files = [("images", ("one.jpg", GRACE_HOPPER.read_bytes()))] * 32
    options = ["--workers=1", "--drain-timeout=1", "--metrics-port=0"]
    with (
        serving(models_folder, empty_cache, *options) as server,
        ThreadPoolExecutor(1) as caller,
        httpx.Client(trust_env=False) as scraper,
    ):
        (metrics,) = re.findall(r"http://[\w.:/]+", server.wait_for_line("metrics are at")["message"])
        late = Upload(server, length=len(IMAGE), content_type="image/png", **{"X-Request-ID": "late"})
        late.send(IMAGE[:-1])
        working = caller.submit(server.client.post, "/predict/batch?detector=haar", files=files)
        while "agegender_running 1.0" not in scraper.get(metrics).text:
            assert not working.done()
        server.process.terminate()
        check_problem(late.answer(), 503, "shutting-down")
        check_problem(working.result(), 503, "shutting-down", "/predict/batch")
        assert server.end() == 0
        with pytest.raises(httpx.TransportError):
            scraper.get(metrics)
    assert server.request_line("late")["status"] == 503
    assert "Traceback" not in server.log()
    assert "terminate called" not in server.log()  # as C++ says where a worker's thread is torn down


def test_a_second_interrupt_stops_at_once_and_without_a_traceback(
    models_folder: Path, empty_cache: Path
) -> None:
    options = ["--workers=1", f"--drain-timeout={2 * PATIENCE}", f"--arrival-timeout={2 * PATIENCE}"]
    with serving(models_folder, empty_cache, *options) as server:
        late = Upload(server, length=len(IMAGE), content_type="image/png", **{"X-Request-ID": "late"})
        late.send(IMAGE[:-1])
        server.process.send_signal(signal.SIGINT)
        server.wait_for_line("Waiting for connections to close")
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 0  # although the client neither sends the rest nor leaves
        check_problem(late.answer(), 503, "shutting-down")
    assert "Traceback" not in server.log()
