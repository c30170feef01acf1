"""What the plug-in for ms-swift needs of ms-swift: its few classes for the default tests, and an engine with a script.

`test_ms_swift_slow.py` compares the classes with those of the installed package, and uses the same engine there.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

from vllm_server import Handler, Says, together

from relisten.models.base import AudioLM
from relisten.remote.vllm import as_piece
from relisten.types import Audio


@dataclass
class RolloutInferRequest:
    messages: list[dict[str, Any]]
    audios: list[str] = field(default_factory=list)
    uuid: str | None = None


@dataclass
class RequestConfig:
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: list[str] = field(default_factory=list)
    structured_outputs_regex: str | None = None
    stream: bool = False
    logprobs: bool = False
    return_details: bool = False


@dataclass
class ChatMessage:
    role: str
    content: str


@dataclass
class ChatCompletionResponseChoice:
    index: int
    message: ChatMessage
    finish_reason: str | None
    logprobs: dict[str, list[dict[str, Any]]] | None = None
    token_ids: list[int] | None = None


@dataclass
class UsageInfo:
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass
class ChatCompletionResponse:
    model: str
    choices: list[ChatCompletionResponseChoice]
    usage: UsageInfo
    prompt_token_ids: list[int] | None = None


@dataclass
class RolloutOutput:
    response: ChatCompletionResponse
    messages: list[dict[str, Any]] | None
    response_token_ids: list[list[int]]
    response_loss_mask: list[list[int]]
    rollout_infos: dict[str, Any]
    rollout_logprobs: list[list[float]]


class MultiTurnScheduler:
    def __init__(self, infer_engine: Any = None, max_turns: int | None = None) -> None:
        self.infer_engine, self.max_turns = infer_engine, max_turns


class ORM:
    pass


class Qwen2_5OmniTemplate:  # noqa: N801
    def _preprocess_inputs(self, inputs: Any) -> None:
        pass


def get_token_backed_response_ids(response: Any) -> list[int] | None:
    return response["token_ids"] if isinstance(response, dict) else None


def remove_response(messages: list[dict[str, Any]]) -> None:
    if messages[-1]["role"] == "assistant":
        messages.pop()


MODULES: dict[str, dict[str, Any]] = {
    "infer_engine.protocol": {
        one.__name__: one
        for one in (ChatCompletionResponseChoice, ChatMessage, RolloutInferRequest, RolloutOutput)
    },
    "rewards.orm": {"ORM": ORM, "orms": {}},
    "rollout.multi_turn": {"MultiTurnScheduler": MultiTurnScheduler, "multi_turns": {}},
    "template.register": {"TEMPLATE_MAPPING": {"qwen2_5_omni": SimpleNamespace()}},
    "template.templates.qwen": {"Qwen2_5OmniTemplate": Qwen2_5OmniTemplate},
    "template.utils": {"get_token_backed_response_ids": get_token_backed_response_ids},
    "template.vision_utils": {"load_audio": None, "load_file": None},
    "utils": {"remove_response": remove_response},
}  # fmt: skip


@contextmanager
def installed() -> Iterator[None]:
    """As if ms-swift was installed."""
    before = dict(sys.modules)
    for name, content in MODULES.items():
        parts = f"swift.{name}".split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        vars(sys.modules[f"swift.{name}"]).update(content)
    try:
        yield
    finally:
        for name in set(sys.modules) - set(before):
            if name.partition(".")[0] == "swift" or name == "relisten.plugins.ms_swift":
                del sys.modules[name]


class ScriptedEngine:
    """ms-swift's engine for rollouts, as far as the scheduler uses it: a real model chooses tokens, or a script does.

    protocol: where the classes of the reply come from (here, or the installed package).
    """

    def __init__(
        self, model: AudioLM, folder: str, template: Any, says: Says, protocol: Any, context: int = 4096
    ) -> None:
        self.model, self.model_dir, self.template, self.protocol = model, folder, template, protocol
        self.max_model_len = context
        self.requests: list[dict[str, Any]] = []
        """What vLLM would have been given."""
        self.handler = Handler.__new__(Handler)
        self.handler.server = SimpleNamespace(  # type: ignore[assignment]
            model=model, audio={}, says=says, processed=True, version_of_weights="default"
        )

    async def infer_async(self, request: Any, config: Any, *, pre_infer_hook: Callable[..., dict[str, Any]]) -> Any:
        """One reply, as `VllmEngine.infer_async` makes it: template, hook, vLLM."""
        await asyncio.sleep(0)
        assert config.return_details and config.logprobs and request.audios == []
        kwargs = {"inputs": {"input_ids": [0], "template_inputs": request}, "generation_config": SimpleNamespace()}
        asked = pre_infer_hook(kwargs)
        self.requests.append(asked)
        sampling = vars(asked["generation_config"])
        pieces = [as_piece(Audio(*one)) for one in asked["inputs"]["audios"]]
        body = {
            "token_ids": asked["inputs"]["input_ids"],
            "content_parts": [{"url": piece.url, "uuid": piece.uuid} for piece in pieces],
            "sampling_params": sampling,
            "return_token_ids": True,
        }
        reply = together(list(self.handler.replies(body, 0)))
        choice = reply["choices"][0]
        said = self.protocol.ChatMessage("assistant", self.model.decode(choice["token_ids"]))
        found = self.protocol.ChatCompletionResponseChoice(
            0, said, choice["finish_reason"], choice["logprobs"], choice["token_ids"]
        )
        prompt = reply["prompt_token_ids"]
        usage = self.protocol.UsageInfo(len(prompt), len(choice["token_ids"]), len(prompt) + len(choice["token_ids"]))
        return self.protocol.ChatCompletionResponse("scripted", [found], usage, prompt_token_ids=prompt)
