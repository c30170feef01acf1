"""Running the application with uvicorn: signals, and timeouts for connections that send or read nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from relisten.serving.app import Guard

MAX_CONNECTIONS = 512
"""Open connections beyond which requests are refused with status 503."""
HEAD_SECONDS = 20.0
"""Seconds within which a connection must send the head of a request."""
STALL_SECONDS = 60.0
"""Seconds after which a client that reads nothing of its reply is disconnected."""


def make_server(app: Guard, seconds: float, ready: Callable[[], None]) -> Server:
    """A server, to be started with `run([sock])`, where sock is a bound socket.

    It serves until SIGTERM or Ctrl-C. Then answers that have begun are finished, for at most `seconds`. ready: called
    when the server accepts requests.
    """
    config = uvicorn.Config(
        app, http=Protocol, ws="none", loop="asyncio", lifespan="on", log_level="warning", access_log=False,
        limit_concurrency=MAX_CONNECTIONS, timeout_graceful_shutdown=int(seconds), timeout_keep_alive=30,
        server_header=False, date_header=False,
    )  # fmt: skip
    return Server(config, app, ready)


class Server(uvicorn.Server):
    """A server that ends with exit code 0 when it is asked to stop."""

    def __init__(self, config: uvicorn.Config, app: Guard, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call `ready`."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse questions that wait, and finish answers that have begun."""
        self._app.state.service.desk.stop()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets answers finish; a second Ctrl-C does not wait for them."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


class Protocol(H11Protocol):
    """HTTP/1.1 with two more timeouts: for the head of a request, and for a client that stops reading."""

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        self._waiting: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        for timer in (self._waiting, self._stalled):
            if timer is not None:
                timer.cancel()

    def _watch_head(self) -> None:
        """Run the timer while no request is being answered."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECONDS, self._check_head)
        elif not idle and self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _check_head(self) -> None:
        self._waiting = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
