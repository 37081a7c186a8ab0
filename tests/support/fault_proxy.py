"""An HTTP proxy on loopback that misbehaves on purpose, in front of a real S3 server.

    with FaultProxy(server.endpoint_url) as proxy:
        proxy.inject(Fault(kind=Kind.SLOW_DOWN, on="GET", key="a.jpg", times=2))
        Location("s3://bucket/a.jpg", proxy.endpoint_url).read_bytes()

Without an active fault it passes everything on as it is: method, path, headers (`Host` too, so that signatures stay
valid), body and answer. It runs in threads of this process, and any process of this machine can talk to it.
"""

import enum
import http.client
import itertools
import os
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 1 << 16  # bytes passed on at a time
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "proxy-connection", "expect")
UPSTREAM_TIMEOUT_S = 120
Answer = tuple[int, list[tuple[str, str]], bytes]  # status, headers, body


class Kind(enum.StrEnum):
    """What goes wrong."""

    INTERNAL_ERROR = "500 InternalError"
    BAD_GATEWAY = "502 BadGateway"
    SLOW_DOWN = "503 SlowDown"
    TOO_MANY = "429 TooManyRequests"
    DENIED = "403 AccessDenied"
    ARCHIVED = "403 InvalidObjectState"
    BAD_KEY = "403 InvalidAccessKeyId"
    SKEWED = "403 RequestTimeTooSkewed"
    EXPIRED = "400 ExpiredToken"
    NOT_IMPLEMENTED = "501 NotImplemented"
    RESET = "reset before the request reached the server"
    RESET_IN_BODY = "reset in the middle of the body"
    SHORT_BODY = "closed in the middle of the body"
    TRUNCATED = "fewer bytes, and a Content-Length that says so"
    LOST_ANSWER = "reset after the server did it"
    DELAY = "a late answer"
    STALE = "the answer of an earlier listing"


TRANSIENT = (
    *(Kind.INTERNAL_ERROR, Kind.BAD_GATEWAY, Kind.SLOW_DOWN, Kind.TOO_MANY),
    *(Kind.RESET, Kind.RESET_IN_BODY, Kind.SHORT_BODY, Kind.LOST_ANSWER, Kind.DELAY),
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Which requests go wrong, and how."""

    kind: Kind | None = None
    """None: one of `TRANSIENT`, drawn for each request."""
    on: str = ""
    """Only these requests, a pattern over `GET`, `HEAD`, `PUT`, `DELETE`, `LIST`, `POST`; empty: all."""
    key: str = ""
    """Only where this pattern is found in `bucket/key`, for a listing in `bucket/prefix`."""
    after: int = 0
    """How many such requests go well first."""
    times: int | None = 1
    """How many go wrong; None: no end."""
    share: float = 1.0
    """The share of them that goes wrong, drawn under the seed."""
    seed: int = 0
    kept: float = 0.5
    """The share of a body that still arrives."""
    delay_s: float = 0.05


def kind_and_key(method: str, target: str) -> tuple[str, str]:
    """Return what the faults look at: `GET`, `LIST` and so on, and `bucket/key` or `bucket/prefix`."""
    url = urlsplit(target)
    path = unquote(url.path).strip("/")
    if method == "GET" and "/" not in path:
        return "LIST", f"{path}/{parse_qs(url.query).get('prefix', [''])[0]}"
    return method, path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    upstream: tuple[str, int]
    proxy: "FaultProxy"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        """Say nothing."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client went
            self.close_connection = True

    def _serve(self) -> None:
        request, key = kind_and_key(self.command, self.path)
        body = self._body()
        fault = self.proxy.next_fault(request, key, self.path)
        kind = fault.kind if fault else None
        if kind is Kind.RESET:
            self._reset()
        elif kind is Kind.STALE:
            self._answer(*self.proxy.listings[self.path], fault=None)
        elif kind and re.match(r"\d", kind):
            self._refuse(kind)
        else:
            if fault and kind is Kind.DELAY:
                time.sleep(fault.delay_s)
            self._forward(request, body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = _serve  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self._read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self._read().split(b";")[0], 16):
            pieces.append(self._read(size + 2)[:-2])
        while self._read().strip():  # trailers
            pass
        return b"".join(pieces)

    def _read(self, size: int | None = None) -> bytes:
        """Return so many bytes, or a line. Of an upload that its client does not finish nothing reaches the server."""
        data = self.rfile.readline() if size is None else self.rfile.read(size)
        if len(data) < (1 if size is None else size):
            raise ConnectionError("the client went")
        return data

    def _forward(self, request: str, body: bytes, fault: Fault | None) -> None:
        """Ask the server on a connection of its own, which cannot have gone stale, and pass the answer on."""
        server = http.client.HTTPConnection(*self.upstream, timeout=UPSTREAM_TIMEOUT_S)
        try:
            answer = self._ask(server, body)
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
            if fault is None and request != "LIST":
                self._pass_on(answer.status, headers, _pieces(answer))
                return
            whole = answer.status, headers, b"".join(_pieces(answer))
            if request == "LIST" and answer.status == 200:
                self.proxy.listings[self.path] = whole
            if fault and fault.kind is Kind.LOST_ANSWER:
                self._reset()
            else:
                self._answer(*whole, fault=fault)
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # one of the two ends failed by itself: the other sees its connection end
        finally:
            server.close()

    def _ask(self, server: http.client.HTTPConnection, body: bytes) -> http.client.HTTPResponse:
        server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                server.putheader(name, value)
        chunked = "Transfer-Encoding" in self.headers
        if chunked:
            server.putheader("Transfer-Encoding", "chunked")
        server.endheaders([body] if chunked and body else body, encode_chunked=chunked)
        return server.getresponse()

    def _pass_on(self, status: int, headers: list[tuple[str, str]], pieces: Iterator[bytes]) -> None:
        """Stream an answer; one whose length the server did not say is sent in chunks."""
        has_body = self.command != "HEAD" and status not in (204, 304)
        chunked = has_body and not any(name.lower() == "content-length" for name, _ in headers)
        self._head(status, [*headers, ("Transfer-Encoding", "chunked")] if chunked else headers)
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault | None) -> None:
        """Send an answer that is at hand, as much of it as the fault lets through, and then maybe hang up."""
        kind = fault.kind if fault else None
        cut = kind in (Kind.RESET_IN_BODY, Kind.SHORT_BODY, Kind.TRUNCATED)
        sent = body[: int(len(body) * fault.kept)] if fault and cut else body
        if self.command != "HEAD" and status not in (204, 304):
            length = len(sent) if kind is Kind.TRUNCATED else len(body)
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(length)))
        self._head(status, headers)
        self.wfile.write(sent)
        if kind is Kind.RESET_IN_BODY:
            self._reset()
        elif kind is Kind.SHORT_BODY:
            self.close_connection = True

    def _refuse(self, kind: Kind) -> None:
        status, code = kind.split()
        xml = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>made up</Message></Error>'
        body = b"" if self.command == "HEAD" else xml.encode()
        self._answer(int(status), [("Content-Type", "application/xml")], body, fault=None)

    def _head(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _reset(self) -> None:
        """End the connection with RST, at once and not when the last reference to the socket goes."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True


def _pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield an answer's body; an error where less comes than the server said."""
    yield from iter(lambda: answer.read(PIECE), b"")
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


class FaultProxy:
    """The proxy, up between `with` and its end."""

    def __init__(self, endpoint_url: str) -> None:
        upstream = urlsplit(endpoint_url)
        handler = type("Handler", (_Handler,), {"upstream": (upstream.hostname, upstream.port), "proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._active: dict[int, tuple[Fault, random.Random, Counter[str]]] = {}
        self.listings: dict[str, Answer] = {}  # the last answer to each
        self.requests: Counter[str] = Counter()  # how many came, by `GET`, `LIST` and so on
        self.faults: Counter[Kind] = Counter()  # how many of them went wrong, by the kind of fault

    @property
    def endpoint_url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def inject(self, fault: Fault) -> int:
        """Make a fault active; returns its number, for `remove`. Of several that match, the first one acts."""
        with self._lock:
            number = next(self._numbers)
            self._active[number] = fault, random.Random(fault.seed), Counter()
            return number

    def remove(self, number: int | None = None) -> None:
        """End a fault, or all of them."""
        with self._lock:
            self._active = {other: fault for other, fault in self._active.items() if number not in (None, other)}

    @contextmanager
    def burst(self, seed: int, share: float = 0.3) -> Iterator[None]:
        """Let this share of all requests fail, each in a transient way drawn under the seed."""
        number = self.inject(Fault(share=share, seed=seed, times=None))
        try:
            yield
        finally:
            self.remove(number)

    def next_fault(self, request: str, key: str, target: str) -> Fault | None:
        """Count a request; return what shall go wrong with it."""
        with self._lock:
            self.requests[request] += 1
            for fault, dice, seen in self._active.values():
                if not (re.fullmatch(fault.on or ".*", request) and re.search(fault.key, key)):
                    continue
                seen["matching"] += 1
                if seen["matching"] <= fault.after or seen["wrong"] == fault.times or dice.random() >= fault.share:
                    continue
                kind = fault.kind or dice.choice(TRANSIENT)
                if kind is Kind.STALE and target not in self.listings:
                    continue
                seen["wrong"] += 1
                self.faults[kind] += 1
                return replace(fault, kind=kind)
            return None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
