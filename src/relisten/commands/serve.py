"""`relisten serve`: an HTTP API in OpenAI's chat form, and a page."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from relisten import records
from relisten.commands.options import GENERATION, MODEL, ModelOptions
from relisten.engine.generation import GenerationConfig
from relisten.extras import install_hint
from relisten.redact import hide
from relisten.reports.text import console
from relisten.serving.limits import Limits
from relisten.types import Example

if TYPE_CHECKING:
    from relisten.serving.service import Served

ADDRESS = Parameter(group=Group("Address and access", sort_key=1))
LIMITS = Parameter(name="*", group=Group("Limits", sort_key=4))


def serve(
    *,
    host: Annotated[str, ADDRESS] = "127.0.0.1",
    port: Annotated[int, ADDRESS] = 8000,
    api_key: Annotated[str | None, ADDRESS, Parameter(env_var="RELISTEN_API_KEY", show_env_var=True)] = None,
    insecure: Annotated[bool, ADDRESS, Parameter(show_default=False, negative=())] = False,
    allow_urls: Annotated[bool, ADDRESS, Parameter(show_default=False, negative=())] = False,
    examples: Annotated[Path | None, ADDRESS] = None,
    generation: Annotated[GenerationConfig, GENERATION] = GenerationConfig(),
    options: Annotated[ModelOptions, MODEL] = ModelOptions(),
    limits: Annotated[Limits, LIMITS] = Limits(),
) -> int:
    """Answer questions over HTTP: a page for people, and OpenAI's chat form for programs.

    The page is at the address that is printed. Programs send POST /v1/chat/completions with a question and a recording.
    New questions join the running batch at once. Stop the server with Ctrl-C or SIGTERM: answers that have begun are
    finished.

    The options of generation are used where a request says nothing. A request may not ask for more tokens or listens
    than --max-new-tokens and --max-listens.

    Parameters
    ----------
    host
        The address to listen on. 127.0.0.1 is reached from this machine alone; 0.0.0.0 is reached from everywhere.
    port
        The port to listen on. 0 takes a free one.
    api_key
        A key that every request must send as Authorization: Bearer KEY. Set it in the environment rather than on the
        command line, which other users of the machine can read.
    insecure
        Listen on other addresses than 127.0.0.1 without a key, so that everybody who reaches the port may ask.
    allow_urls
        Fetch recordings from http and https addresses in requests. Addresses in private networks are always refused.
    examples
        A .jsonl of questions in MMAR's form, which the page offers to try. Everybody who may open the page can hear
        their recordings. The default is the recording that comes with relisten.
    """
    _check(host, port, api_key, insecure)
    offered = _examples(examples)
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(f"`relisten serve` needs {error.name}; install it with {install_hint('serve')}") from None
    from relisten.serving.app import build
    from relisten.serving.server import make_server
    from relisten.serving.service import Service

    sock = _bound(host, port)
    model = served(options, limits.max_rows)

    def make() -> Service:
        service = Service(model, limits, generation, options.max_seconds)
        service.allow_urls = allow_urls
        return service

    shown = f"[{host}]" if ":" in host else host
    names = (shown, "localhost", "127.0.0.1", "[::1]") if _is_loopback(host) and api_key is None else ()

    def ready() -> None:
        address = f"http://{shown}:{sock.getsockname()[1]}"
        text = f"{model.name} answers at {address}/ (page) and {address}/v1 (API); stop it with Ctrl-C"
        console(stderr=True).print(text, soft_wrap=True)

    with sock:
        make_server(build(make, offered, api_key, names), limits.request_seconds, ready).run([sock])
    return 0


def _check(host: str, port: int, api_key: str | None, insecure: bool) -> None:
    """Raises ValueError if the server would be open to everybody by mistake."""
    if not 0 <= port <= 65_535:
        raise ValueError(f"--port {port}: ports are 0 to 65535")
    if api_key is not None:
        hide(api_key)
        if len(api_key) < 16 or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise ValueError(
                "the key must have at least 16 printable ASCII characters and no blanks; make a longer one"
            )
    elif not insecure and not _is_loopback(host):
        raise ValueError(
            f"--host {host} is reached from other machines: set a key in RELISTEN_API_KEY, or say --insecure to let"
            " everybody ask"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _bound(host: str, port: int) -> socket.socket:
    """A socket on the address, bound before the model is loaded. Raises ValueError if the address cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        raise ValueError(f"--host {host} --port {port}: {error.strerror or error}; choose another") from None
    return sock


def _examples(path: Path | None) -> Sequence[Example]:
    """The questions that the page offers. Raises ValueError if they cannot be read."""
    if path is None:
        from importlib.resources import files

        path = Path(str(files("relisten") / "assets" / "example.jsonl"))
    found = records.read_examples(path)
    for example in found:
        if not isinstance(example.audio, Path) or not example.audio.is_file():
            raise ValueError(f"{path}: the recording of {example.id} is missing ({example.audio})")
    return found


def served(options: ModelOptions, max_rows: int) -> Served:
    """The model and the engine that `options` name."""
    from relisten.models.scope import notice_of
    from relisten.serving.service import Served

    model, make = options.open(live=True)
    engine = make(model, max_rows=max_rows)
    about = None if model.scope is None else model.scope.about
    # Clients need not know the folder of the model.
    name = Path(options.name).name if Path(options.name).exists() else options.name
    return Served(name, model.rate, engine.session, partial(notice_of, model), about, engine.operations)
