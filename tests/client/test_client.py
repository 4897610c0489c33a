"""Both clients, with the service itself, and with servers that give answers that the service gives rarely or never."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tenacity
from agegender import AsyncClient, Client
from agegender.answers import BatchAnswer, ImagePrediction, ImageProblem, ModelsAnswer, Prediction
from agegender.api import problems
from agegender.api.problems import ApiError, Kind, problem_response
from agegender.client import AgeGenderError, BadRequest, Busy, Defect, Refused, TimedOut, Unreachable
from helpers import ASTRONAUT, PATIENCE, Server, grey, pixels, png, side_by_side, web_server, without_timings

Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Calls one method of a client; `client` are the arguments of the client itself."""
    monkeypatch.setattr("agegender.client._BACKOFF", tenacity.wait_none())

    def ask_sync(
        url: str, method: str, *args: Any, client: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        with Client(url, **client or {}) as one:
            return getattr(one, method)(*args, **options)

    def ask_async(
        url: str, method: str, *args: Any, client: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        async def run() -> Any:
            async with AsyncClient(url, **client or {}) as one:
                return await getattr(one, method)(*args, **options)

        return asyncio.run(run())

    return ask_sync if request.param == "sync" else ask_async


# The service itself


def test_a_path_bytes_and_arrays_get_the_answer_of_the_service(ask: Ask, server: Server) -> None:
    expected = without_timings(server.predict(ASTRONAUT.read_bytes()).json())
    assert len(expected["faces"]) == 1
    for photograph, more in (
        (ASTRONAUT, {}),
        (ASTRONAUT.read_bytes(), {}),
        (pixels(ASTRONAUT)[:, :, ::-1], {"channels": "RGB"}),
    ):
        answer = ask(server.url, "predict", photograph, **more)
        assert isinstance(answer, Prediction)
        assert without_timings(answer.model_dump(mode="json")) == expected


def test_options_reach_the_service(ask: Ask, server: Server) -> None:
    both = png(side_by_side())
    answer = ask(server.url, "predict", both, model="age_gender_A", detector="haar", max_faces=1)
    assert (answer.model, answer.detector, len(answer.faces)) == ("age_gender_A", "haar", 1)
    assert answer.faces[0].box.x > 512
    answer = ask(server.url, "predict", both, model=None, detector="haar", min_confidence=1)
    assert (answer.model, answer.faces) == ("age_gender_B", [])
    answer = ask(server.url, "predict", both, coverage=0.95, distribution=True)
    served = server.predict(both, coverage=0.95, distribution=True).json()
    assert without_timings(answer.model_dump(mode="json")) == without_timings(served)
    assert len(served["faces"][1]["age"]["distribution"]) == 101


def test_a_batch_has_a_prediction_or_a_problem_for_each_in_order(
    ask: Ask, server: Server, tmp_path: Path
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path / "gr\u00fcn") + b"\xff.png"))
    odd.write_bytes(png(grey()))
    batch = [ASTRONAUT, b"no image", pixels(ASTRONAUT), str(odd)]
    answer = ask(server.url, "predict_batch", batch, channels="BGR", detector="haar", model="age_gender_A")
    first, broken, second, last = answer.results
    served = server.predict(ASTRONAUT.read_bytes(), detector="haar", model="age_gender_A").json()
    for result in (first, second):
        assert without_timings(result.prediction.model_dump(mode="json")) == without_timings(served)
    assert (broken.error.type, broken.error.status) == ("/problems/image-unreadable", 400)
    names = [result.filename for result in (first, broken, second, last)]
    assert names == ["astronaut.jpg", "photograph 2", "photograph 3", "gr\u00fcn?.png"]


def test_models_are_listed(ask: Ask, server: Server) -> None:
    listing = ask(server.url, "models")
    assert isinstance(listing, ModelsAnswer)
    assert [model.id for model in listing.models] == ["age_gender_A", "age_gender_B"]
    assert listing.default == "age_gender_B"
    with pytest.raises(BadRequest, match="GET /docs"):
        ask(f"{server.url}/elsewhere", "models")


def test_a_key_opens_the_service(ask: Ask, bare_server: Server, keys: tuple[str, str]) -> None:
    for wrong in (None, "gr\u00fcn"):
        with pytest.raises(Refused, match="X-API-Key") as raised:
            ask(bare_server.url, "models", client={"api_key": wrong})
        assert raised.value.problem.type == "/problems/unauthorized"
    with pytest.raises(Refused, match="one line"):
        ask(bare_server.url, "models", client={"api_key": "two\nlines"})
    assert ask(bare_server.url, "models", client={"api_key": f"{keys[1]}\n"}).default == "age_gender_B"


def test_the_exception_for_a_bad_request_has_the_problem_of_the_service(
    ask: Ask, bare_server: Server, keys: tuple[str, str]
) -> None:
    one, batch = "predict", "predict_batch"
    for method, sent, options, kind, detail in (
        (one, b"no image", {}, problems.IMAGE_UNREADABLE, "Send a JPEG"),
        (one, b"any", {"modle": "age_gender_A"}, problems.PARAMETER_INVALID, "Unknown query parameter"),
        (batch, [b"any"] * 33, {}, problems.MULTIPART_INVALID, "too many images"),
        (batch, [ASTRONAUT], {"model": "age_gender_Z"}, problems.MODEL_UNKNOWN, "no such model"),
    ):
        with pytest.raises(BadRequest) as raised:
            ask(bare_server.url, method, sent, client={"api_key": keys[0]}, **options)
        problem = raised.value.problem
        assert detail in str(raised.value) == problem.detail
        assert (problem.type, problem.title, problem.status) == (kind.type, kind.title, kind.status)
        assert bare_server.request_line(problem.request_id)["status"] == kind.status


# Other servers

Answer = tuple[int, dict[str, str], bytes]
SOON = {"Retry-After": "0"}
EXAMPLE = json.dumps(Prediction.model_json_schema()["example"]).encode()
SUCCESS: Answer = (200, {"Content-Type": "application/json"}, EXAMPLE)


class Canned:
    """A server that gives one answer after the other, the last one again and again; None closes the connection."""

    def __init__(self, *answers: Answer | None) -> None:
        self.url = ""
        self.bodies: list[bytes] = []
        self.times: list[float] = []
        self.open = threading.Event()
        self.open.set()
        self._answers = answers

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self.bodies.append(request.rfile.read(int(request.headers.get("Content-Length", 0))))
        self.times.append(time.time())
        assert self.open.wait(PATIENCE)
        answer = self._answers[min(len(self.bodies), len(self._answers)) - 1]
        if answer is None:
            request.connection.close()
            return
        status, headers, body = answer
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


@contextlib.contextmanager
def answering(*answers: Answer | None) -> Iterator[Canned]:
    canned = Canned(*answers)
    with web_server(canned.answer) as canned.url:
        yield canned
        canned.open.set()


def refusal(kind: Kind, **headers: str) -> Answer:
    response = problem_response(ApiError(kind), "/predict", "request-1")
    named = {"content-type": problems.MEDIA_TYPE, "X-Request-ID": "request-1"}
    return kind.status, {**named, **headers}, bytes(response.body)


@pytest.mark.parametrize(
    ("kind", "headers", "expected", "tries"),
    [
        (problems.METHOD_NOT_ALLOWED, {}, BadRequest, 1),
        (problems.BODY_TOO_LARGE, {}, BadRequest, 1),
        (problems.UNAUTHORIZED, {}, Refused, 1),
        (problems.RATE_LIMITED, SOON, Refused, 3),
        (problems.SHUTTING_DOWN, SOON, Busy, 3),
        (problems.OVERLOADED, {"Retry-After": "61"}, Busy, 1),
        (problems.INTERNAL_ERROR, {}, Defect, 1),
    ],
)
def test_a_problem_is_an_exception_that_can_be_pickled_and_only_what_may_pass_is_asked_again(
    ask: Ask, kind: Kind, headers: dict[str, str], expected: type[Exception], tries: int
) -> None:
    with answering(refusal(kind, **headers)) as canned, pytest.raises(AgeGenderError) as raised:
        ask(canned.url, "predict", b"any", client={"retries": 2})
    assert len(canned.bodies) == tries
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):  # noqa: S301
        assert type(error) is expected
        assert (error.problem.type, error.problem.status) == (kind.type, kind.status)
        assert (str(error), error.problem.request_id) == (kind.example, "request-1")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (502, b"<html><h1>502 Bad Gateway</h1></html>"),
        (200, b'{"model": "age_gender_B"}'),
        (301, b""),
        (403, b'{"title": "Quota used up", "code": [17]}'),
        (500, b'["type", "title", "detail"]'),
        (500, b'{"type": [], "title": {}, "detail": 1}'),
        (500, b"\xff"),
    ],
)
def test_an_answer_of_another_server_is_recognized(ask: Ask, status: int, body: bytes) -> None:
    with answering((status, {}, body)) as canned, pytest.raises(Unreachable) as raised:
        ask(canned.url, "predict", b"any")
    assert f"The server at {canned.url}/predict is not this service" in str(raised.value)
    assert raised.value.problem.status == status


def test_a_request_is_repeated_whole_until_it_is_answered(ask: Ask) -> None:
    busy = [
        refusal(problems.OVERLOADED, **SOON),
        refusal(problems.RATE_LIMITED, **SOON),
        (503, {}, b"<html>"),
        None,
    ]
    with answering(*busy[:3], SUCCESS) as canned:
        assert ask(canned.url, "predict", b"the same each time").faces[0].age.years == 31.4
    assert canned.bodies == [b"the same each time"] * 4
    example = json.dumps(BatchAnswer.model_json_schema()["example"]).encode()
    with answering(*busy[2:], (200, {}, example)) as canned:
        results = ask(canned.url, "predict_batch", [b"one", b"two"]).results
    assert isinstance(results[0], ImagePrediction)
    assert isinstance(results[1], ImageProblem)
    assert len(results) == 2
    for body in canned.bodies:
        assert body.index(b"one") < body.index(b"two")
    assert len(canned.bodies) == 3


def test_a_request_is_not_repeated_before_retry_after(ask: Ask) -> None:
    with answering(refusal(problems.OVERLOADED, **{"Retry-After": "1"}), SUCCESS) as canned:
        ask(canned.url, "predict", b"any")
    first, second = canned.times
    assert second >= first + 1


def test_where_nothing_listens_a_sentence_says_so(ask: Ask) -> None:
    with answering(None) as canned:
        pass
    with pytest.raises(Unreachable, match=f"The service at {canned.url}/ cannot be reached .*check"):
        ask(canned.url.replace("//", "//user:secret@"), "predict", b"any", client={"retries": 1})


def test_an_answer_that_takes_too_long_is_not_waited_for(ask: Ask) -> None:
    with answering(SUCCESS) as canned:
        canned.open.clear()
        with pytest.raises(TimedOut, match="use a longer timeout"):
            ask(canned.url, "predict", b"any", client={"timeout": 0.2})
    assert len(canned.bodies) == 1


def test_a_connection_that_takes_too_long_is_tried_again(ask: Ask) -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):  # that nobody accepts: the system ignores further ones
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(TimedOut):
            ask(url, "predict", b"any", client={"timeout": 0.2, "retries": 2})
    assert time.monotonic() >= begun + 3 * 0.2


# Without a server


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://localhost", "http://", "", "http://[::1", "http://no..name"]
)
def test_an_invalid_address_is_refused_at_once(ask: Ask, url: str) -> None:
    with pytest.raises(Unreachable, match="must be like http://localhost:8000"):
        ask(url, "models")


def test_a_photograph_that_cannot_be_read_is_not_sent(ask: Ask) -> None:
    with answering(None) as canned:
        with pytest.raises(FileNotFoundError):
            ask(canned.url, "predict", "nowhere.jpg")
        with pytest.raises(ValueError, match="order of its colours"):
            ask(canned.url, "predict_batch", [b"any", grey()])
        with pytest.raises(ValueError, match="The batch is empty: give at least one photograph"):
            ask(canned.url, "predict_batch", [])
    assert canned.bodies == []
