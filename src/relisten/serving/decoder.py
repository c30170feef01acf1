"""Recordings are decoded in separate processes, because a file may crash the decoder, fill the memory or never end.
Then one of these processes dies, and the server goes on.

`python -m relisten.serving.decoder` is such a process. It reads one JSON line for each recording from stdin, and writes
a line with the number of samples and then the samples, or a line with the reason why there are none.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relisten import audio
from relisten.serving.chat import RequestError
from relisten.types import Audio

MEMORY = 3 << 29
"""Bytes of memory that a decoder may take in addition to those at its start. The longest recording takes a tenth."""
_LINE = 1 << 20


@dataclass(frozen=True)
class Decoded:
    """A decoded recording, with warnings about it."""

    audio: Audio
    warnings: tuple[str, ...]
    """For example that a part is damaged and was replaced by silence."""


@dataclass
class Decoders:
    """A few decoding processes, which are used again. `decode` starts them as they are needed."""

    num: int = 2
    """How many recordings are decoded at the same time."""
    seconds: float = 60.0
    """Wall-clock seconds that a recording may take."""
    num_dead: int = 0
    """How many processes died or were ended because of a recording."""

    def __post_init__(self) -> None:
        self._idle: list[asyncio.subprocess.Process] = []
        self._slots = asyncio.Semaphore(self.num)
        self._folder = TemporaryDirectory(prefix="relisten-serve-")
        self._count = 0

    async def decode(self, content: bytes, rate: int, max_seconds: float) -> Decoded:
        """A recording, mono, at `rate` (Hz). Raises RequestError in one line if the file cannot be used."""
        async with self._slots:
            self._count += 1
            path = Path(self._folder.name) / f"recording-{self._count}"
            await asyncio.to_thread(path.write_bytes, content)
            del content
            process = self._idle.pop() if self._idle else await _start()
            try:
                async with asyncio.timeout(self.seconds):
                    told, samples = await _converse(process, path, rate, max_seconds)
                self._idle.append(process)
            except (asyncio.IncompleteReadError, ConnectionError, ValueError):  # it has died, or its reply is malformed
                raise self._lost("the decoder crashed on it") from None
            except TimeoutError:
                raise self._lost(f"it took longer than {self.seconds:g} s") from None
            finally:
                path.unlink(missing_ok=True)
                if process not in self._idle:  # its reply would be taken for that of the next recording
                    _kill(process)
        warnings = tuple(str(text).replace(str(path), "the recording") for text in told.get("warnings", []))
        if "error" in told:
            raise RequestError(400, str(told["error"]).replace(str(path), "the recording"), "messages")
        return Decoded(Audio(samples, rate), warnings)

    def _lost(self, why: str) -> RequestError:
        self.num_dead += 1
        return RequestError(400, f"the recording cannot be decoded: {why}", "messages")

    async def warm(self) -> None:
        """Start the processes, so that the first recording does not wait for one."""
        self._idle += await asyncio.gather(*(_start() for _ in range(self.num - len(self._idle))))

    async def close(self) -> None:
        """End all processes and remove the folder."""
        for process in self._idle:
            _kill(process)
            await process.wait()
        self._idle.clear()
        self._folder.cleanup()


async def _start() -> asyncio.subprocess.Process:
    # Without threads of its own, numpy takes less memory, and decoding disturbs the engine less.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relisten.serving.decoder", stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL,
        env=environment, limit=_LINE, start_new_session=True,
    )  # fmt: skip


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


async def _converse(
    process: asyncio.subprocess.Process, path: Path, rate: int, max_seconds: float
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The reply of a process about a recording, and the samples [T]. There are none if the reply has an `error`."""
    assert process.stdin is not None and process.stdout is not None
    asked = {"path": str(path), "rate": rate, "max_seconds": max_seconds}
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    await process.stdin.drain()
    told = json.loads(await process.stdout.readuntil(b"\n"))
    content = await process.stdout.readexactly(4 * int(told.get("num_samples", 0)))
    return told, np.frombuffer(content, np.float32)


# What follows runs in the decoding process.


def serve() -> None:
    """Decode one recording after another until stdin ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints would spoil the samples
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("relisten").addHandler(handler)
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        warnings.clear()
        try:
            found = audio.load(asked["path"], asked["rate"], asked["max_seconds"])
        except (ValueError, OSError) as error:
            told, content = dict[str, Any](error=str(error)), b""
        else:
            told = {"num_samples": len(found.samples), "warnings": warnings}
            content = found.samples.astype("<f4", copy=False).tobytes()
        out.write(json.dumps(told).encode() + b"\n" + content)
        out.flush()


def _limit() -> None:
    """Limit the memory of this process to what it has now and `MEMORY` more, and write no core file."""
    try:
        import resource
    except ImportError:  # Windows
        return
    pages = Path("/proc/self/statm")
    now = int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else 1 << 32
    for which, most in ((resource.RLIMIT_AS, now + MEMORY), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    _limit()
    serve()
