"""Fetching a recording from an address that a client named, without being sent into the server's own network.

The addresses of a host are looked up once and all of them are checked. The connection then goes to an address that was
checked, so a name that means something else a moment later changes nothing. Redirects are followed here, so that each
of them is checked like the first address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import httpx2

from relisten import __version__
from relisten.serving.chat import RequestError, too_large

MAX_REDIRECTS = 3
HEADERS = {"User-Agent": f"relisten/{__version__}", "Accept-Encoding": "identity"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


async def fetch(url: str, max_bytes: int, seconds: float) -> bytes:
    """The content at an http or https address. Raises RequestError if it cannot be had within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            for _ in range(MAX_REDIRECTS + 1):
                found = await _get(httpx2.URL(url), max_bytes)
                if isinstance(found, bytes):
                    return found
                url = str(found)
    except TimeoutError:
        raise _refused("it takes too long") from None
    except (OSError, ValueError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _refused(" ".join(str(error).split())[:120] or type(error).__name__) from None
    raise _refused(f"it redirects more than {MAX_REDIRECTS} times")


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet, and not to this machine or a network around it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def _get(url: httpx2.URL, max_bytes: int) -> bytes | httpx2.URL:
    """The content at an address, or the address that it redirects to."""
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise _refused("it must be an http or https address with a host, without user and password")
    host = url.raw_host.decode("ascii")
    checked = url.copy_with(host=await _checked(host, url.port or (443 if url.scheme == "https" else 80)))
    headers = HEADERS | {"Host": url.netloc.decode("ascii")}
    async with (
        # A proxy of the environment would look the name up again; `fetch` limits the time of the whole.
        httpx2.AsyncClient(trust_env=False, timeout=None, headers=headers) as client,
        client.stream("GET", checked, extensions={"sni_hostname": host}) as response,
    ):
        if response.has_redirect_location:
            return url.join(response.headers["Location"])
        if response.status_code != 200:
            raise _refused(f"it answers with status {response.status_code}")
        content = bytearray()
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > max_bytes:
                raise RequestError(413, too_large(max_bytes), "messages")
        return bytes(content)


async def _checked(host: str, port: int) -> str:
    """An address of the host. Raises RequestError unless all of its addresses are public."""
    try:
        found = await asyncio.to_thread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _refused("its host is not known") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not all(map(is_public, addresses)):
        raise _refused("its host has an address in a private network, which is never fetched from")
    return addresses[0]


def _refused(reason: str) -> RequestError:
    return RequestError(400, f"the recording cannot be fetched: {reason}", "messages")
