"""The server of `make run`: quick, correct HTTP, and the gateway's refusals as problems."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from chalice.app import Chalice, Response

from local.processes import free_port
from local.server import GATEWAY_BODY_LIMIT, ApiServer

ORIGIN = "http://localhost:5173"
BOTH_INSIDE = threading.Barrier(2)


def tiny_app() -> Chalice:
    app = Chalice("tiny")

    @app.route("/things/{name}", methods=["GET"])
    def show(name: str) -> dict[str, str]:
        return {"name": name}

    @app.route("/things", methods=["POST"], content_types=["application/octet-stream"])
    def create() -> Response:
        return Response({"bytes": len(app.current_request.raw_body)}, {"Content-Type": "application/json"}, 201)

    @app.route("/things", methods=["DELETE"])
    def delete() -> Response:
        return Response("", status_code=204)

    @app.route("/things", methods=["HEAD"])
    def look() -> Response:
        return Response("hidden", {"Content-Type": "text/plain"}, 200)

    @app.route("/slow/{name}", methods=["GET"])
    def slow(name: str) -> dict[str, str]:
        BOTH_INSIDE.wait(timeout=10)
        return {"asked": app.current_request.uri_params["name"]}

    return app


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    server = ApiServer(tiny_app(), free_port(), [ORIGIN])
    yield server
    server.stop()


@pytest.fixture
def client(api: ApiServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, trust_env=False, timeout=10) as client:
        yield client


def raw_exchange(api: ApiServer, request: bytes, *, until: bytes = b"") -> bytes:
    """Send bytes as they are; return what comes until ``until``, or until the server closes the connection."""
    port = int(api.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        received = b""
        while piece := connection.recv(65536):
            received += piece
            if until and until in received:
                break
    return received


def test_answers_come_from_the_app(client: httpx2.Client) -> None:
    assert client.get("/things/lamp").json() == {"name": "lamp"}


def test_two_requests_at_once_each_see_their_own(api: ApiServer) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda name: httpx2.get(f"{api.url}/slow/{name}", trust_env=False).json(), "ab"))

    assert answers == [{"asked": "a"}, {"asked": "b"}]


@pytest.mark.parametrize("method", ["DELETE", "HEAD"])
def test_an_answer_without_a_body_leaves_the_connection_in_order(client: httpx2.Client, method: str) -> None:
    answer = client.request(method, "/things")

    assert answer.content == b""
    assert client.get("/things/lamp").json() == {"name": "lamp"}


def test_no_content_says_no_length(client: httpx2.Client) -> None:
    answer = client.delete("/things")

    assert answer.status_code == 204
    assert "Content-Length" not in answer.headers
    assert "Content-Type" not in answer.headers


def test_a_body_of_the_gateways_limit_is_let_through(client: httpx2.Client) -> None:
    answer = client.post(
        "/things", content=bytes(GATEWAY_BODY_LIMIT), headers={"Content-Type": "application/octet-stream"}
    )

    assert answer.json() == {"bytes": GATEWAY_BODY_LIMIT}


def test_a_client_that_waits_for_leave_to_send_gets_it(api: ApiServer) -> None:
    request = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"

    assert b"100 Continue" in raw_exchange(api, request, until=b"\r\n\r\n")


@pytest.mark.parametrize(
    ("path", "authorization"),
    [("/nothing", ""), ("/things/lamp/more", ""), ("/nothing", "Bearer ü"), ("//[::1", "")],
    ids=["unknown", "too deep", "odd token", "unreadable"],
)
def test_an_unknown_path_is_a_problem_that_browsers_can_read(api: ApiServer, path: str, authorization: str) -> None:
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\nAuthorization: {authorization}\r\n"
    request += "Content-Length: 2\r\n\r\n{}GET /things/lamp HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = raw_exchange(api, request.encode("latin-1")).decode()

    assert received.startswith("HTTP/1.1 404 ")
    assert "Content-Type: application/problem+json" in received
    assert f"Access-Control-Allow-Origin: {ORIGIN}" in received
    assert "X-Request-Id: " in received
    assert '"code":"not_found"' in received
    assert received.endswith('{"name":"lamp"}'), "the next request on the connection is answered"


def test_an_unknown_method_is_told_which_methods_there_are(api: ApiServer) -> None:
    received = raw_exchange(api, b"BREW /things HTTP/1.1\r\nHost: x\r\n\r\n").decode()

    assert received.startswith("HTTP/1.1 405 ")
    assert "Allow: DELETE, HEAD, POST\r\n" in received


def test_other_origins_are_not_let_in(client: httpx2.Client) -> None:
    answer = client.get("/nothing", headers={"Origin": "https://elsewhere.example"})

    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /things HTTP/1.1\r\nContent-Length: many\r\n\r\n", b"400"),
        (b"POST /things HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /things HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"400"),
        (b"POST /things HTTP/1.1\r\nContent-Length: 10485761\r\n\r\n", b"413"),
        (b"BREW /things HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /things HTTP/9.9\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
    ids=["length in words", "negative length", "chunked", "too large", "unknown method", "HTTP 9.9", "nonsense"],
)
def test_what_no_gateway_lets_through_is_a_problem_and_ends_the_connection(
    api: ApiServer, request_: bytes, status: bytes
) -> None:
    received = raw_exchange(api, request_)

    assert received.startswith(b"HTTP/1.1 " + status)
    assert b"application/problem+json" in received
    assert b"Traceback" not in received
