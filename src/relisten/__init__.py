"""relisten: large audio-language models that hear a recording again while they reason about it.

>>> import relisten
>>> model = relisten.load("nano")
>>> relisten.ask(model, relisten.EXAMPLE, "Which sound is heard just before the kick?", ["choir", "guitar"]).choice
'choir'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:  # so that editors and type checkers know what is imported lazily below
    from relisten.asking import EXAMPLE as EXAMPLE
    from relisten.asking import ShownAnswer as ShownAnswer
    from relisten.asking import ask as ask
    from relisten.audio import load as load_audio  # noqa: F401
    from relisten.engine.engine import Engine as Engine
    from relisten.engine.generation import GenerationConfig as GenerationConfig
    from relisten.engine.row import Finished as Finished
    from relisten.engine.row import Heard as Heard
    from relisten.engine.row import Refused as Refused
    from relisten.engine.row import Text as Text
    from relisten.models import load as load
    from relisten.types import Audio as Audio
    from relisten.types import Example as Example
    from relisten.types import Listen as Listen
    from relisten.types import Response as Response
    from relisten.types import Segment as Segment
    from relisten.types import Trace as Trace

# Where each public name lives. It is imported when it is first used, so that `import relisten` does not import torch.
_HOME = {
    "EXAMPLE": "relisten.asking:EXAMPLE",
    "Audio": "relisten.types:Audio",
    "Engine": "relisten.engine.engine:Engine",
    "Example": "relisten.types:Example",
    "Finished": "relisten.engine.row:Finished",
    "GenerationConfig": "relisten.engine.generation:GenerationConfig",
    "Heard": "relisten.engine.row:Heard",
    "Listen": "relisten.types:Listen",
    "Refused": "relisten.engine.row:Refused",
    "Response": "relisten.types:Response",
    "Segment": "relisten.types:Segment",
    "ShownAnswer": "relisten.asking:ShownAnswer",
    "Text": "relisten.engine.row:Text",
    "Trace": "relisten.types:Trace",
    "ask": "relisten.asking:ask",
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
