"""Engines that run elsewhere: vLLM servers, which take and give tokens, and models behind a chat API.

local                               the engine in this process
http://HOST:PORT[,http://...]       vLLM servers (vllm.py)
chat+http://HOST/v1[?options]#NAME  any audio model behind an OpenAI-compatible chat API (chat.py)
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from relisten import redact

if TYPE_CHECKING:
    from relisten.engine.answering import EngineFactory
    from relisten.models.base import AudioLM


def kind(engine: str) -> str:
    """The kind of engine that a name means: local, vllm or chat. Raises ValueError for any other name."""
    if engine == "local":
        return "local"
    if engine.startswith(("http://", "https://")):
        return "vllm"
    if engine.startswith(("chat+http://", "chat+https://")):
        return "chat"
    raise ValueError(
        f"--engine {redact.one_line(engine)!r}: write local, the address of a vLLM server such as"
        " http://localhost:8000, or chat+http://HOST:PORT/v1#NAME for a model behind a chat API"
    )


def told(engine: str) -> dict[str, str]:
    """What a run records about its engine: nothing for the local one. Addresses of vLLM servers may change."""
    return {} if kind(engine) == "local" else {"engine": "vllm" if kind(engine) == "vllm" else _chat(engine)}


def open_engine(
    model: str | AudioLM, engine: str = "local", device: str = "auto", dtype: str = "auto", live: bool = False
) -> tuple[AudioLM, EngineFactory]:
    """A model and what makes an engine for it, as `Engine` does.

    model: a name, a folder, or a model that is loaded already. live: whether every token is to be passed on at once.
    Raises ValueError, in one line, if the model cannot be loaded, or if no server answers.
    """
    from relisten import models
    from relisten.engine.engine import Engine

    if kind(engine) == "local":
        return (models.load(model, dtype=dtype, device=device) if isinstance(model, str) else model), Engine
    if kind(engine) == "chat":
        from relisten.remote import chat

        speaker, name = chat.connect(engine)
        return speaker, partial(chat.ChatEngine, name=name)
    from relisten.models.qwen2_5_omni import Qwen2_5Omni
    from relisten.remote.vllm import VllmEngine, connect

    loaded = models.load_without_weights(model) if isinstance(model, str) else model
    if not isinstance(loaded, Qwen2_5Omni):  # another model's placeholders may be expanded differently on a server
        raise ValueError(f"{engine}: only Qwen2.5-Omni can answer on vLLM so far; leave --engine out for {loaded.name}")
    return loaded, partial(VllmEngine, servers=connect(engine, loaded), live=live)


def _chat(engine: str) -> str:
    """The address and the name of a chat model, without its options."""
    address, _, name = engine.partition("#")
    return redact.redact(address.partition("?")[0]) + f"#{name}"
