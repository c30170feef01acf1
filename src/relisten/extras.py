"""Optional packages: how to install an extra, for the way in which relisten itself was installed."""

from __future__ import annotations

import json
from importlib import metadata
from urllib.parse import unquote, urlsplit


def install_hint(extra: str) -> str:
    """The command that installs an extra: for a checkout, for a wheel on disk or at an address, or for an index.

    >>> install_hint("lora")
    "pip install -e '/home/me/relisten[lora]'"
    """
    try:
        origin = json.loads(metadata.distribution("relisten").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        origin = {}
    url = str(origin.get("url", "")) if isinstance(origin, dict) else ""
    if not url:  # from an index, or not installed at all
        return f"pip install 'relisten[{extra}]'"
    if "dir_info" not in origin:
        return f"pip install 'relisten[{extra}] @ {url}'"
    folder = unquote(urlsplit(url).path)
    editable = "-e " if origin["dir_info"].get("editable") else ""
    return f"pip install {editable}'{folder}[{extra}]'"
