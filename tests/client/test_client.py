"""Both clients, with the service itself, and with servers that give answers that the service gives rarely or never."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import pytest
import tenacity
from agegender.answers import BatchAnswer, ImagePrediction, ImageProblem, ModelsAnswer, Prediction
from agegender.api import problems
from agegender.api.problems import Kind, problem_response
from agegender.client import (
    AgeGenderError,
    AsyncClient,
    BadRequest,
    Busy,
    Client,
    Defect,
    Refused,
    TimedOut,
    Unreachable,
)
from agegender.settings import Settings
from gated import gated_service
from helpers import (
    ASTRONAUT,
    GRACE_HOPPER,
    PATIENCE,
    Server,
    grey,
    png,
    side_by_side,
    without_timings,
)

SOON = {"Retry-After": "0"}


def ask_at_once(url: str, method: str, *args: Any, client: dict[str, Any], **options: Any) -> Any:
    with Client(url, **client) as asking:
        return getattr(asking, method)(*args, **options)


def ask_awaiting(url: str, method: str, *args: Any, client: dict[str, Any], **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, **client) as asking:
            return await getattr(asking, method)(*args, **options)

    return asyncio.run(run())


Ask = Callable[..., Any]


@pytest.fixture(params=[ask_at_once, ask_awaiting], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Calls one method of a client of that address; `client` are the client's own options."""
    monkeypatch.setattr("agegender.client._BACKOFF", tenacity.wait_none())

    def asking(
        url: str, method: str, *args: Any, client: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        return request.param(url, method, *args, client=client or {}, **options)

    return asking


# The service itself


def said(answer: Prediction) -> dict[str, Any]:
    return without_timings(answer.model_dump(mode="json"))


def test_a_path_bytes_and_arrays_get_the_answer_of_the_service(ask: Ask, server: Server) -> None:
    expected = without_timings(server.predict(ASTRONAUT.read_bytes()).json())
    assert len(expected["faces"]) == 1
    bgr = cv2.imread(str(ASTRONAUT))
    for photograph, more in (
        (ASTRONAUT, {}),
        (str(ASTRONAUT), {}),
        (ASTRONAUT.read_bytes(), {}),
        (bgr, {"channels": "BGR"}),
        (bgr[:, :, ::-1], {"channels": "RGB"}),
    ):
        answer = ask(server.url, "predict", photograph, **more)
        assert isinstance(answer, Prediction)
        assert said(answer) == expected


def test_options_reach_the_service(ask: Ask, server: Server) -> None:
    both = png(side_by_side())
    answer = ask(server.url, "predict", both, model="age_gender_A", detector="haar", max_faces=1)
    assert (answer.model, answer.detector, len(answer.faces)) == ("age_gender_A", "haar", 1)
    assert answer.faces[0].box.x > 512
    assert ask(server.url, "predict", both, detector="haar", min_confidence=1).faces == []
    assert ask(server.url, "predict", both, model=None, min_confidence=None).model == "age_gender_B"
    whole = ask(server.url, "predict", GRACE_HOPPER, detector="none")
    assert whole.faces[0].confidence is None


def test_a_batch_has_a_prediction_or_a_problem_for_each_in_order(
    ask: Ask, server: Server, tmp_path: Path
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path / "gr\u00fcn") + b"\xff.png"))
    odd.write_bytes(png(grey()))
    batch = [ASTRONAUT, b"no image", cv2.imread(str(GRACE_HOPPER)), str(odd)]
    answer = ask(server.url, "predict_batch", batch, channels="BGR", detector="haar", model="age_gender_A")
    assert isinstance(answer, BatchAnswer)
    first, broken, second, last = answer.results
    for result, photograph in ((first, ASTRONAUT), (second, GRACE_HOPPER)):
        assert isinstance(result, ImagePrediction)
        served = server.predict(
            png(cv2.imread(str(photograph))), detector="haar", model="age_gender_A"
        ).json()
        assert said(result.prediction) == without_timings(served)
    assert isinstance(broken, ImageProblem)
    assert (broken.error.type, broken.error.status) == ("/problems/image-unreadable", 400)
    names = [result.filename for result in (first, broken, second, last)]
    assert names == ["astronaut.jpg", "photograph 2", "photograph 3", "gr\u00fcn?.png"]


def test_a_batch_that_is_refused_as_a_whole_is_an_exception(ask: Ask, server: Server) -> None:
    with pytest.raises(BadRequest, match="1 to 32 file parts"):
        ask(server.url, "predict_batch", [b"any"] * 33)
    with pytest.raises(BadRequest, match="no such model"):
        ask(server.url, "predict_batch", [ASTRONAUT], model="age_gender_Z")
    with pytest.raises(ValueError, match="batch is empty"):
        ask(server.url, "predict_batch", [])
    with pytest.raises(FileNotFoundError):
        ask(server.url, "predict_batch", [ASTRONAUT, "nowhere.jpg"])


def test_a_batch_is_repeated_too(ask: Ask) -> None:
    example = json.dumps(BatchAnswer.model_json_schema()["example"]).encode()
    with answering(refusal(problems.OVERLOADED, **SOON), (200, {}, example)) as canned:
        results = ask(canned.url, "predict_batch", [b"one", b"two"]).results
    assert [type(result) for result in results] == [ImagePrediction, ImageProblem]
    for body in canned.bodies:
        assert body.index(b"one") < body.index(b"two")
    assert len(canned.bodies) == 2


def test_models_and_readiness(ask: Ask, server: Server) -> None:
    listing = ask(server.url, "models")
    assert isinstance(listing, ModelsAnswer)
    assert [model.id for model in listing.models] == ["age_gender_A", "age_gender_B"]
    assert listing.default == "age_gender_B"
    assert ask(server.url, "ready") is True


def test_a_key_opens_the_service(ask: Ask, bare_server: Server, keys: tuple[str, str]) -> None:
    for wrong in (None, "gr\u00fcn"):
        with pytest.raises(Refused, match="X-API-Key") as raised:
            ask(bare_server.url, "models", client={"api_key": wrong})
        assert raised.value.problem.type == "/problems/unauthorized"
    with pytest.raises(Refused, match="one line"):
        ask(bare_server.url, "models", client={"api_key": "two\nlines"})
    assert ask(bare_server.url, "models", client={"api_key": f"{keys[1]}\n"}).default == "age_gender_B"
    assert ask(bare_server.url, "ready") is True


@pytest.mark.parametrize(
    ("photograph", "options", "kind", "detail"),
    [
        (b"no image", {}, problems.IMAGE_UNREADABLE, "Send a JPEG"),
        (png(grey(1, 9000, 5000)), {}, problems.IMAGE_TOO_LARGE, "million pixels"),
        (b"any", {"model": "age_gender_Z"}, problems.MODEL_UNKNOWN, "there are: age_gender_B"),
        (b"any", {"max_faces": 0}, problems.PARAMETER_INVALID, "from 1 to 100"),
        (b"any", {"modle": "age_gender_A"}, problems.PARAMETER_INVALID, "no query parameter of that name"),
    ],
)
def test_the_exception_for_a_bad_request_has_the_problem_of_the_service(
    ask: Ask,
    bare_server: Server,
    keys: tuple[str, str],
    photograph: bytes,
    options: dict[str, Any],
    kind: Kind,
    detail: str,
) -> None:
    with pytest.raises(BadRequest) as raised:
        ask(bare_server.url, "predict", photograph, client={"api_key": keys[0]}, **options)
    problem = raised.value.problem
    assert detail in str(raised.value) == problem.detail
    assert (problem.type, problem.title, problem.status) == (kind.type, kind.title, kind.status)
    assert bare_server.request_line(problem.request_id)["status"] == kind.status


def test_another_path_of_the_service_is_not_found(ask: Ask, server: Server) -> None:
    for method in ("models", "ready"):
        with pytest.raises(BadRequest, match="GET /docs"):
            ask(f"{server.url}/elsewhere", method)


@pytest.mark.parametrize("limit", ["1/second", "1/hour"])
def test_a_rate_limit_is_waited_for_unless_that_takes_long(
    ask: Ask, models_folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    settings = Settings(models=models_folder, workers=1, rate_limit=limit)
    with gated_service(settings, monkeypatch) as service:
        ask(service.url, "models")
        if limit == "1/second":
            assert ask(service.url, "models").default == "age_gender_B"
        else:
            with pytest.raises(Refused, match="per hour") as raised:
                ask(service.url, "models")
            assert 60 < raised.value.retry_after <= 3600


@pytest.mark.parametrize("opens", [True, False], ids=["in time", "never"])
def test_an_overloaded_service_is_asked_again(
    ask: Ask, models_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, opens: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    image = png(grey(51))

    def predict(retries: int) -> float:
        answer = ask(service.url, "predict", image, client={"retries": retries}, detector="none")
        return float(answer.faces[0].age.years)

    settings = Settings(models=models_folder, workers=1, queue_size=0)
    with gated_service(settings, monkeypatch) as service, ThreadPoolExecutor(2) as threads:
        service.gate.clear()
        first = threads.submit(predict, 0)
        wait_until(lambda: service.load().running == 1)
        second = threads.submit(predict, 4 if opens else 1)
        if opens:
            wait_until(lambda: service.load().refused >= 1)
        else:
            with pytest.raises(Busy, match="try again"):
                second.result(PATIENCE)
        service.gate.set()
        assert first.result(PATIENCE) == 20
        if opens:
            assert second.result(PATIENCE) == 20


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)  # else it would take the interpreter from the service that it waits for


# Servers of all kinds

Answer = tuple[int, dict[str, str], bytes]


class Canned:
    """A server that gives one answer after the other, the last one again and again; None cuts the connection."""

    def __init__(self, *answers: Answer | None) -> None:
        self.bodies: list[bytes] = []
        self.times: list[float] = []
        canned = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                canned.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                canned.times.append(time.time())
                answer = answers[min(len(canned.bodies), len(answers)) - 1]
                if answer is None:
                    self.connection.close()
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextlib.contextmanager
def answering(*answers: Answer | None) -> Iterator[Canned]:
    canned = Canned(*answers)
    threading.Thread(target=canned.server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield canned
    finally:
        canned.server.shutdown()
        canned.server.server_close()


def refusal(kind: Kind, **headers: str) -> Answer:
    response = problem_response(kind, kind.example, "/predict", "request-1")
    named = {"content-type": problems.MEDIA_TYPE, "X-Request-ID": "request-1"}
    return kind.status, {**named, **headers}, bytes(response.body)


@pytest.fixture(scope="module")
def success() -> Answer:
    example = Prediction.model_json_schema()["example"]
    return 200, {"Content-Type": "application/json"}, json.dumps(example).encode()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (problems.IMAGE_MISSING, BadRequest),
        (problems.METHOD_NOT_ALLOWED, BadRequest),
        (problems.BODY_TOO_LARGE, BadRequest),
        (problems.UNAUTHORIZED, Refused),
        (problems.RATE_LIMITED, Refused),
        (problems.OVERLOADED, Busy),
        (problems.INTERNAL_ERROR, Defect),
    ],
    ids=lambda value: value.name if isinstance(value, Kind) else "",
)
def test_a_problem_of_each_kind_is_an_exception(ask: Ask, kind: Kind, expected: type[Exception]) -> None:
    with answering(refusal(kind)) as canned, pytest.raises(AgeGenderError) as raised:
        ask(canned.url, "predict", b"any", client={"retries": 0})
    error = raised.value
    assert type(error) is expected
    assert (error.problem.type, error.problem.status) == (kind.type, kind.status)
    assert (str(error), error.problem.request_id) == (kind.example, "request-1")
    from_another_process = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(from_another_process), vars(from_another_process)) == (type(error), vars(error))


def test_a_gateway_s_problem_may_leave_members_out(ask: Ask) -> None:
    document = {"title": "Quota used up", "code": [17]}
    answer = (403, {"Content-Type": "application/problem+json"}, json.dumps(document).encode())
    with answering(answer) as canned, pytest.raises(Refused, match="Quota used up") as raised:
        ask(canned.url, "models")
    problem = raised.value.problem
    assert (problem.type, problem.status, problem.request_id) == ("about:blank", 403, "")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (502, b"<html><h1>502 Bad Gateway</h1></html>"),
        (200, b"<html>Welcome to this hotel's network</html>"),
        (200, b'{"model": "age_gender_B"}'),
        (301, b""),
        (500, b'["type", "title", "detail"]'),
        (500, b'{"type": [], "title": {}, "detail": 1}'),
        (500, b"\xff"),
    ],
)
def test_an_answer_of_another_server_is_recognized(ask: Ask, status: int, body: bytes) -> None:
    with (
        answering((status, {}, body)) as canned,
        pytest.raises(Unreachable, match="check the address") as raised,
    ):
        ask(canned.url, "predict", b"any")
    assert f"The server at {canned.url}/predict is not this service" in str(raised.value)
    assert raised.value.problem.status == status


def test_a_refusal_for_now_is_repeated_whole_until_it_is_none(ask: Ask, success: Answer) -> None:
    busy = [
        refusal(problems.OVERLOADED, **SOON),
        refusal(problems.RATE_LIMITED, **SOON),
        (503, {}, b"<html>"),
    ]
    with answering(*busy, success) as canned:
        answer = ask(canned.url, "predict", b"the same each time")
    assert answer.faces[0].age.years == 31.4
    assert canned.bodies == [b"the same each time"] * 4


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_the_wait_that_the_service_asks_for_is_kept(ask: Ask, success: Answer, as_date: bool) -> None:
    at = time.time() + 2
    asked = email.utils.formatdate(at, usegmt=True) if as_date else "1"
    with answering(refusal(problems.OVERLOADED, **{"Retry-After": asked}), success) as canned:
        ask(canned.url, "predict", b"any")
    first, second = canned.times
    assert second >= (int(at) if as_date else first + 1)


@pytest.mark.parametrize(
    ("answer", "expected", "tries"),
    [
        (refusal(problems.SHUTTING_DOWN, **SOON), Busy, 3),
        (refusal(problems.OVERLOADED, **{"Retry-After": "61"}), Busy, 1),
        (refusal(problems.INTERNAL_ERROR), Defect, 1),
        (refusal(problems.IMAGE_UNREADABLE), BadRequest, 1),
        (None, Unreachable, 3),
    ],
    ids=["busy", "long wait", "defect", "bad image", "cut off"],
)
def test_repetitions_are_bounded_and_for_what_may_change(
    ask: Ask, answer: Answer | None, expected: type[Exception], tries: int
) -> None:
    with answering(answer) as canned, pytest.raises(expected):
        ask(canned.url, "predict", b"any", client={"retries": 2})
    assert len(canned.bodies) == tries


def test_a_connection_that_breaks_is_made_again(ask: Ask, success: Answer) -> None:
    with answering(None, success) as canned:
        assert ask(canned.url, "predict", b"any").model == "age_gender_B"
    assert len(canned.bodies) == 2


def test_where_nobody_listens_one_sentence_says_so(ask: Ask) -> None:
    with answering(None) as canned:
        pass
    with pytest.raises(
        Unreachable, match=f"The service at {canned.url}/ cannot be reached .*check that it runs"
    ):
        ask(canned.url.replace("//", "//user:secret@"), "predict", b"any", client={"retries": 1})
    assert ask(canned.url, "ready") is False


def test_an_answer_that_takes_too_long_is_not_waited_for(ask: Ask) -> None:
    released = threading.Event()
    with answering((200, {}, b"")) as canned:
        answer = canned.server.RequestHandlerClass.do_POST

        def late(handler: Any) -> None:
            assert released.wait(PATIENCE)
            with contextlib.suppress(ConnectionError):
                answer(handler)

        canned.server.RequestHandlerClass.do_POST = late  # type: ignore[attr-defined]
        with pytest.raises(TimedOut, match="use a longer timeout"):
            ask(canned.url, "predict", b"any", client={"timeout": 0.2})
        released.set()


@pytest.mark.parametrize(
    ("kind", "ready"), [(problems.SHUTTING_DOWN, False), (None, False), (problems.NOT_FOUND, None)]
)
def test_readiness_of_what_is_not_ready(ask: Ask, kind: Kind | None, ready: bool | None) -> None:
    answer = (502, {}, b"<html>") if kind is None else refusal(kind)
    with answering(answer) as canned:
        if ready is None:
            with pytest.raises(BadRequest):
                ask(canned.url, "ready")
        else:
            assert ask(canned.url, "ready") is ready
    assert len(canned.bodies) == 1


# What needs no server


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://localhost", "http://", "", "http://[::1", "http://no..name"]
)
def test_an_address_that_is_none_is_refused_at_once(ask: Ask, url: str) -> None:
    with pytest.raises(Unreachable, match="must be like http://localhost:8000"):
        ask(url, "ready")


@pytest.mark.parametrize(
    ("photograph", "options", "expected", "said"),
    [
        (grey(), {}, ValueError, "channels='BGR' as OpenCV reads them, or channels='RGB'"),
        (
            grey()[:, :, 0],
            {"channels": "RGB"},
            ValueError,
            r"must be \(height, width, 3\) uint8; this one is \(60, 90\) uint8",
        ),
        (grey() / 255, {"channels": "RGB"}, ValueError, "float64"),
        (17, {}, TypeError, "not int"),
        (Path("nowhere.jpg"), {}, FileNotFoundError, "nowhere.jpg"),
    ],
    ids=["no order", "grey", "floats", "a number", "no file"],
)
def test_what_cannot_be_sent_is_said_before_anything_is(
    ask: Ask, photograph: Any, options: dict[str, Any], expected: type[Exception], said: str
) -> None:
    with answering(None) as canned, pytest.raises(expected, match=said):
        ask(canned.url, "predict", photograph, **options)
    assert canned.bodies == []


def test_importing_the_client_loads_nothing_that_serves_or_runs_models() -> None:
    script = "import sys; from agegender import AsyncClient, Client; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "agegender.client" in loaded
    assert not {"fastapi", "starlette", "uvicorn", "cv2", "onnxruntime"} & set(loaded)
