"""relisten: large audio-language models that hear a recording again while they reason about it."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Where each public name lives: imported when first used, so that `import relisten` does not import torch.
_HOME = {
    "Audio": "relisten.types:Audio",
    "Engine": "relisten.engine.engine:Engine",
    "Example": "relisten.types:Example",
    "GenerationConfig": "relisten.engine.generation:GenerationConfig",
    "Response": "relisten.types:Response",
    "Segment": "relisten.types:Segment",
    "Trace": "relisten.types:Trace",
    "ask": "relisten.engine.answer:ask",
    "load": "relisten.models:load",
    "load_audio": "relisten.audio:load",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'relisten' has no attribute {name!r}")
    module, attribute = _HOME[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
