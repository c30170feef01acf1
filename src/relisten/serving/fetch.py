"""Fetching a recording from an address that a client named, without being sent into the server's own network.

A host's addresses are looked up once, each is checked, and the connection goes to the address that was checked: a name
that answers differently the next time changes nothing. Redirects are followed by hand, each checked like the first.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from relisten import __version__
from relisten.serving.chat import RequestError, too_large

MAX_REDIRECTS = 3
_PIECE = 1 << 16
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch(url: str, max_bytes: int, seconds: float) -> bytes:
    """The content at an http or https address, within `seconds`. Raises RequestError. It blocks."""
    deadline = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        found = _get(url, max_bytes, deadline)
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise _refused(f"it redirects more than {MAX_REDIRECTS} times")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, and not of this machine or of a network around it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _get(url: str, max_bytes: int, deadline: float) -> bytes | str:
    """The content, or the address that it redirects to."""
    connection, path = _connection(url, deadline)
    try:
        headers = {"User-Agent": f"relisten/{__version__}", "Accept-Encoding": "identity", "Connection": "close"}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308) and (where := response.headers.get("Location")):
            return str(where)
        if response.status != 200:
            raise _refused(f"it answers with status {response.status}")
        return _content(response, connection, max_bytes, deadline)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise _refused(reason) from None
    finally:
        connection.close()


def _content(
    response: http.client.HTTPResponse, connection: http.client.HTTPConnection, max_bytes: int, deadline: float
) -> bytes:
    content = bytearray()
    while piece := response.read1(_PIECE):
        content += piece
        if len(content) > max_bytes:
            raise RequestError(413, too_large(max_bytes), "messages")
        if connection.sock is not None:
            connection.sock.settimeout(_left(deadline))
    return bytes(content)


def _connection(url: str, deadline: float) -> tuple[http.client.HTTPConnection, str]:
    """A connection to a checked address of the URL's host, and the path to ask for."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise _refused("the address cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise _refused("it must be an http or https address with a host, without user and password")
    address = _checked(parts.hostname, port)
    sock = None
    try:
        sock = socket.create_connection((address, port), timeout=_left(deadline))
        if parts.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=parts.hostname)
    except (OSError, ValueError) as error:
        if sock is not None:
            sock.close()
        raise _refused(" ".join(str(error).split())[:120]) from None
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=_left(deadline))
    connection.sock = sock  # it is connected, so http.client looks nothing up again
    return connection, _path(parts)


def _checked(host: str, port: int) -> str:
    """An address of the host. Raises RequestError unless all of its addresses are public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _refused("its host is not known") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise _refused("its host has an address in a private network, which is never fetched from")
    return addresses[0]


def _path(parts: SplitResult) -> str:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return "".join(
        c if 0x21 <= ord(c) < 0x7F else "".join(f"%{b:02X}" for b in c.encode("utf-8", "replace")) for c in path
    )


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _refused("it takes too long")
    return left


def _refused(reason: str) -> RequestError:
    return RequestError(400, f"the recording cannot be fetched: {reason}", "messages")
