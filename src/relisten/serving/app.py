"""The application: its addresses, the checks of every request, and the headers of every response."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from string import Template

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from relisten.reports.page import WEB as REPORTS
from relisten.serving import replies, routes
from relisten.serving.chat import RequestError
from relisten.serving.service import Service
from relisten.types import Example

WEB = files("relisten.serving") / "web"
OPEN = ("/", "/health", "/favicon.ico")
"""Addresses that need no key: the page asks for one itself."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data: blob:;"
    " media-src 'self' blob:; connect-src 'self' blob:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}


def build(
    make: Callable[[], Service], examples: Sequence[Example] = (), api_key: str | None = None, hosts: Sequence[str] = ()
) -> Guard:
    """The application. make: makes the service; it is called in the event loop.

    api_key: what clients must send as a bearer token (None: nothing). hosts: the only host names that clients may use
    for the server (empty: any name).
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.service = make()
        await app.state.service.decoders.warm()
        yield
        await app.state.service.close()

    app = Starlette(
        routes=[
            Route("/", _index),
            Route("/web/{name:path}", _web),
            Route("/v1/chat/completions", routes.chat_completions, methods=["POST"]),
            Route("/v1/models", routes.models),
            Route("/v1/relisten/page", routes.page, methods=["POST"]),
            Route("/v1/relisten/recording", routes.recording, methods=["POST"]),
            Route("/v1/relisten/clip", routes.clip, methods=["POST"]),
            Route("/v1/relisten/examples", routes.examples),
            Route("/v1/relisten/examples/{number:int}", routes.example_audio),
            Route("/health", routes.health),
            Route("/metrics", routes.metrics),
        ],
        lifespan=lifespan,
        exception_handlers={
            RequestError: _refused, HTTPException: _http_error, ClientDisconnect: _left, Exception: _failed
        },
    )  # fmt: skip
    app.state.examples, app.state.created, app.state.assets = list(examples), int(time.time()), _assets()
    return Guard(app, api_key, hosts)


class Guard:
    """Checks the host and the key, counts the response, and adds the headers that every response carries."""

    def __init__(self, app: Starlette, api_key: str | None, hosts: Sequence[str]) -> None:
        self.state = app.state
        self._app, self._hosts = app, frozenset(hosts)
        self._key = None if api_key is None else _digest(api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"])
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        if refusal is not None:
            await _json(refusal)(scope, receive, counted)
        else:
            await self._app(scope, receive, counted)

    def _refusal(self, path: str, headers: Headers) -> RequestError | None:
        if self._hosts and _host(headers.get("host", "")) not in self._hosts:
            # Otherwise another site could let its name point to this machine, and read every answer (DNS rebinding).
            return RequestError(
                403, "this server is addressed by another name; use http://127.0.0.1 or http://localhost"
            )
        if self._key is None or path in OPEN or path.startswith("/web/"):
            return None
        kind, _, key = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(_digest(key.strip()), self._key):
            return RequestError(401, "send the server's key in the header Authorization: Bearer KEY")
        return None

    def _count(self, scope: Scope, status: int) -> None:
        endpoint = scope.get("endpoint")  # there are few, so a client cannot make up new labels
        self.state.service.metrics.requests.labels(getattr(endpoint, "__name__", "none"), status).inc()


def _digest(key: str) -> bytes:
    """A digest of fixed length, so that the time to compare it does not tell how long the key is."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _host(given: str) -> str:
    """The name in a Host header, without the port."""
    return given.rpartition(":")[0] if given.rpartition(":")[2].isdigit() else given


async def _index(request: Request) -> Response:
    nonce = secrets.token_urlsafe(16)
    html = Template((WEB / "index.html").read_text(encoding="utf-8")).substitute(nonce=nonce)
    headers = {
        "Content-Security-Policy": POLICY.format(nonce=nonce),
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    return Response(html, media_type="text/html", headers=headers)


def _assets() -> dict[str, tuple[bytes, str]]:
    """The page's own files and their types, by name. Clients get no other files."""
    found = {"page.css": REPORTS / "page.css"}
    for folder in ("", "vendor/"):
        found |= {folder + path.name: path for path in (WEB / folder).iterdir() if path.is_file()}
    kinds = {name: _TYPES.get("." + name.rpartition(".")[2]) for name in found}
    return {name: (path.read_bytes(), kind) for name, path in found.items() if (kind := kinds[name]) is not None}


async def _web(request: Request) -> Response:
    content, kind = request.app.state.assets.get(request.path_params["name"], (None, None))
    if content is None:
        raise HTTPException(404)
    headers = {"Cache-Control": "no-cache", "Cross-Origin-Resource-Policy": "same-origin"}
    return Response(content, media_type=kind, headers=headers)


def _json(refusal: RequestError) -> Response:
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = replies.error(refusal.status, refusal.message, refusal.param)
    return JSONResponse(content, refusal.status, headers=headers)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _json(error)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "there is nothing at this address", 405: "this address takes no such method"}
    return _json(RequestError(error.status_code, said.get(error.status_code, error.detail)))


def _left(request: Request, error: Exception) -> Response:
    return PlainTextResponse("", 499)  # nobody reads it; the status is counted


def _failed(request: Request, error: Exception) -> Response:
    logging.getLogger("relisten.serving").error("a request failed", exc_info=error)
    return _json(RequestError(500, "the server failed on this request; its log says why"))
