"""The limits of the server; each is an option of `relisten serve`."""

from __future__ import annotations

from dataclasses import dataclass

from relisten.fields import documented


@documented
@dataclass(frozen=True)
class Limits:
    """What one request may cost, and how many there may be. Raises ValueError for a value that makes no sense."""

    max_bytes: int = 25_000_000
    """The largest recording that is accepted, in bytes of its file. Larger ones are refused with status 413."""
    max_rows: int = 32
    """Answers that are generated side by side. One request may ask for as many (`n`)."""
    max_waiting: int = 64
    """Answers that may wait for a row. Beyond it, requests are refused with status 503 and told when to come back."""
    max_uploads: int = 8
    """Requests whose recording is received or decoded at the same time. Others wait for their turn, at most
    --upload-seconds; then they are refused with status 429."""
    upload_seconds: float = 60.0
    """Seconds that a client may take to send its request, and that decoding a recording may take."""
    request_seconds: float = 600.0
    """Seconds that a request may take in all, waiting included. Then it is ended with status 504."""
    num_decoders: int = 2
    """Processes that decode recordings. They are separate so that a bad file cannot stop the server."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "max_waiting" else 1
            if not (least <= value < float("inf")):
                option = "--" + name.replace("_", "-")
                raise ValueError(f"{option} is {value:g}; it must be a number that is {least} or more")
