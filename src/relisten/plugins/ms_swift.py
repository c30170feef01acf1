"""A plug-in for ms-swift 4.6: rollouts that hear segments, rewards, and a template that reads the result.

    swift rollout --external_plugins .../relisten/plugins/ms_swift.py --multi_turn_scheduler relisten ...
    swift rlhf    --external_plugins .../relisten/plugins/ms_swift.py --reward_funcs relisten_accuracy ...

The scheduler is thin. `engine.row.Row`, which also serves our own engines, decides what is forced, heard or refused,
and when a limit closes the reasoning; ms-swift's vLLM only samples. So tokens, loss mask and limits are those of
`relisten train grpo`. The file imports ms-swift, so it can only be imported where that is installed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, get_args

from swift.infer_engine.protocol import ChatCompletionResponseChoice, ChatMessage, RolloutInferRequest, RolloutOutput
from swift.rewards.orm import ORM, orms
from swift.rollout.multi_turn import MultiTurnScheduler, multi_turns
from swift.template.register import TEMPLATE_MAPPING
from swift.template.templates.qwen import Qwen2_5OmniTemplate
from swift.template.utils import get_token_backed_response_ids
from swift.template.vision_utils import load_audio, load_file
from swift.utils import remove_response

from relisten import audio as audio_files
from relisten import models, tags
from relisten.engine.generation import GenerationConfig
from relisten.engine.operations import Operation, crop
from relisten.engine.question import Question, audible
from relisten.engine.row import Row
from relisten.engine.words import Words
from relisten.models.base import AudioLM
from relisten.remote.vllm import as_piece, kept, sampling_of, take
from relisten.training import rewards
from relisten.training.batch import encode
from relisten.training.rewards import RewardFunction, TracedResponse
from relisten.types import Audio, Example, Format, Listen, Segment, Trace

BASE = "qwen2_5_omni"
"""The template of ms-swift that the plug-in can train."""
FORMAT = "RELISTEN_FORMAT"
"""The environment variable that chooses how the model reasons; without it, interleaved."""
OPERATIONS: dict[str, Operation] = {"seg": crop}
MAX_LISTENS = GenerationConfig.max_listens
"""Segments that may be heard if --max_turns does not say: one turn more than segments."""


def chosen_format() -> Format:
    """How the model reasons. Raises ValueError if RELISTEN_FORMAT names no format."""
    value = os.environ.get(FORMAT, "interleaved")
    if value not in get_args(Format):
        raise ValueError(f"{FORMAT} is {value!r}; choose conditioned, grounded or interleaved")
    return value  # type: ignore[return-value]


@lru_cache(maxsize=2)
def loaded(folder: str) -> tuple[AudioLM, Words]:
    """The model of a folder without its weights: its tokenizer, its counts of audio tokens, its prompts."""
    model = models.load_without_weights(folder)
    return model, Words(model)


# --- rollouts -------------------------------------------------------------------------------------------------------


class RelistenScheduler(MultiTurnScheduler):  # type: ignore[misc]
    """Generates answers with ms-swift's vLLM engine; each named segment is heard before the answer goes on.

    It needs server mode (`swift rollout` with --vllm_use_async_engine true), where `run` is called for each answer.
    """

    async def on_trajectory_start(self, requests: Sequence[RolloutInferRequest]) -> None:
        """Only colocated rollouts call this. Raises ValueError, because there every turn is tokenised again."""
        raise ValueError(
            "the scheduler 'relisten' needs --vllm_mode server: start `swift rollout` with --multi_turn_scheduler"
            " relisten and --vllm_use_async_engine true (colocated rollouts cannot insert audio exactly)"
        )

    async def run(self, infer_request: RolloutInferRequest, request_config: Any, **kwargs: Any) -> RolloutOutput:
        """One answer. Raises ValueError, in one line, for a question that cannot be asked.

        The prompt is what ms-swift's template makes of the messages, so the trainer reads the same one.
        """
        model, words = loaded(self.infer_engine.model_dir)
        config = generation_config(request_config, self.max_turns)
        remove_response(infer_request.messages)
        loop = asyncio.get_running_loop()
        asked = partial(ask, model, self.infer_engine.template, infer_request, config.format)
        question = await loop.run_in_executor(None, asked)
        room = int(self.infer_engine.max_model_len)
        row = Row(model, words, OPERATIONS, question, 0, config, room)
        if row.done:
            raise ValueError(
                f"a prompt of {len(question.token_ids)} tokens does not fit: the server has room for {room}"
                " (--vllm_max_model_len); raise it, or leave out recordings this long"
            )
        # The hook replaces what the template makes of this, so that no recording is read again at each turn.
        blank = RolloutInferRequest([{"role": "user", "content": ""}], uuid=infer_request.uuid)
        request_config = replace(request_config, return_details=True, logprobs=True, stream=False)
        heard, num_turns = [question.audio], 0
        while not row.done:
            hook = partial(next_tokens, model, row, heard)
            response = await self.infer_engine.infer_async(blank, request_config, pre_infer_hook=hook, **kwargs)
            if response.prompt_token_ids is not None and list(response.prompt_token_ids) != row.trace.token_ids:
                raise ValueError(
                    f"vLLM reads {len(response.prompt_token_ids)} tokens where there are {len(row.trace.token_ids)};"
                    " is the recording longer than chunk_length in the model's preprocessor_config.json?"
                )
            choice = response.choices[0]
            take(row, choice.token_ids, [one["logprob"] for one in choice.logprobs["content"]])
            heard += row.pieces
            row.pieces, row.chunk = [], []
            num_turns += 1
        return returned(model, row, config, infer_request, response, heard, num_turns)

    def step(self, infer_request: Any, response_choice: Any, current_turn: int) -> dict[str, Any]:
        """Not used: `run` does everything. Raises NotImplementedError."""
        raise NotImplementedError("the scheduler 'relisten' runs whole answers; use --vllm_mode server")


multi_turns["relisten"] = RelistenScheduler


NEUTRAL = {
    "repetition_penalty": 1, "min_p": 0, "presence_penalty": 0, "frequency_penalty": 0, "stop": [],
    "structured_outputs_regex": None,
}  # fmt: skip
"""Settings of a request that our engine does not have, and the value that each must have."""


def generation_config(request: Any, max_turns: int | None) -> GenerationConfig:
    """Our settings from ms-swift's. Raises ValueError for one that our engine does not have."""
    wrong = [name for name, neutral in NEUTRAL.items() if (getattr(request, name) or neutral) != neutral]
    if wrong:
        raise ValueError(f"the scheduler 'relisten' cannot sample with {wrong[0]}; leave it out")
    return GenerationConfig(
        format=chosen_format(),
        temperature=1.0 if request.temperature is None else request.temperature,
        max_new_tokens=request.max_tokens or GenerationConfig.max_new_tokens,
        max_listens=MAX_LISTENS if max_turns is None else max(0, max_turns - 1),
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(0, request.top_k or 0),
    )


def ask(model: AudioLM, template: Any, request: RolloutInferRequest, format: Format) -> Question:
    """The question of a request, with the prompt that ms-swift's template makes.

    Raises ValueError if it does not have exactly one recording, if that cannot be read, or for another base model, in
    whose template the trainer would misread the answer.
    """
    if template.template_meta.template_type != BASE:
        raise ValueError(f"the template is {template.template_meta.template_type}; the plug-in is for {BASE} alone")
    if len(request.audios) != 1:
        raise ValueError(f"a question has {len(request.audios)} recordings in `audios`; relisten takes exactly one")
    recording = read(request.audios[0], model.rate)
    question = Question(model, Example(str(request.uuid), recording, "as in the messages"), 0, format)
    placeholder = model.audio_tokens(model.rate)[1]
    prompt = list(template.encode(request)["input_ids"])
    if prompt.count(placeholder) != 1:
        raise ValueError(
            f"a prompt holds <audio> {prompt.count(placeholder)} times; write it once, before the question"
        )
    at, num_tokens = prompt.index(placeholder), question.listen.num_tokens
    question.token_ids = prompt[:at] + [placeholder] * num_tokens + prompt[at + 1 :]
    question.listen = Listen(at, num_tokens, Segment(0.0, question.duration))
    return question


def read(recording: str, rate: int) -> Audio:
    """A recording as ms-swift names it: a path, an address, or base64. Raises ValueError if it cannot be read."""
    if not recording.startswith(("http://", "https://", "data:")) and Path(recording[:4000]).is_file():
        return audio_files.load(recording, rate)
    with NamedTemporaryFile() as file:
        file.write(load_file(recording).read())
        file.flush()
        return audio_files.load(file.name, rate)


def next_tokens(model: AudioLM, row: Row, heard: Sequence[Audio], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The hook of `infer_async`: put the row's own tokens, audio and sampling into the request to vLLM."""
    sampling = sampling_of(row, model, OPERATIONS)
    sampling.pop("seed", None)  # the groups of GRPO need different answers, and ms-swift seeds its engine itself
    return kwargs | {
        "inputs": kwargs["inputs"] | {
            "input_ids": [row.trace.token_ids[index] for index in kept(row.trace)],
            "audios": [(piece.samples, piece.rate) for piece in heard],
        },
        "generation_config": type(kwargs["generation_config"])(**sampling),
    }  # fmt: skip


def returned(
    model: AudioLM,
    row: Row,
    config: GenerationConfig,
    request: RolloutInferRequest,
    response: Any,
    heard: Sequence[Audio],
    num_turns: int,
) -> RolloutOutput:
    """A complete answer as the trainer takes it. response: vLLM's last reply, whose text becomes the whole answer's."""
    trace = row.trace
    said = ChatMessage(role="assistant", content=trace.text)
    finish = "length" if trace.finish in ("length", "context") else "stop"
    token_ids, loss_mask = shortened(trace)
    return RolloutOutput(
        response=replace(response, choices=[ChatCompletionResponseChoice(0, said, finish)]),
        messages=[*request.messages, {"role": "assistant", "content": trace.text}],
        response_token_ids=[token_ids],
        response_loss_mask=[loss_mask],
        rollout_logprobs=[[p for p, own in zip(trace.logprobs, trace.sampled, strict=True) if own]],
        rollout_infos={
            "num_turns": num_turns,
            "audios": [as_piece(piece).url for piece in heard],  # they replace those of the row
            "relisten": told(rewards.traced(model, trace, config), trace),
        },
    )


def shortened(trace: Trace) -> tuple[list[int], list[int]]:
    """The response's tokens with one placeholder for each segment, as ms-swift trains on them, and their loss mask."""
    own = [index for index in kept(trace) if index >= trace.num_prompt]
    return [trace.token_ids[index] for index in own], [int(trace.sampled[index]) for index in own]


# --- rewards --------------------------------------------------------------------------------------------------------


def told(response: TracedResponse, trace: Trace) -> dict[str, Any]:
    """What rewards need of an answer, as JSON, so that it reaches the trainer with `rollout_infos`."""
    refusals = [[refusal.text, refusal.reason] for refusal in trace.refusals]
    return asdict(response) | {"finish": trace.finish, "refusals": refusals}


def traced(info: dict[str, Any]) -> TracedResponse:
    """The inverse of `told`."""
    known = {key: value for key, value in info.items() if key not in ("finish", "refusals")}
    known |= {key: tuple(Segment(**one) for one in info[key]) for key in ("segments", "heard")}
    known |= {"continuations": tuple(info["continuations"]), "answer_pieces": tuple(map(tuple, info["answer_pieces"]))}
    return TracedResponse(**known)


def reward(name: str, function: RewardFunction) -> type[ORM]:
    """A reward of ours as ms-swift takes it. Your own: `orms["mine"] = reward("mine", mine)` in a plug-in of yours.

    It raises ValueError for an answer that the scheduler did not make, or for a row that the reward cannot judge.
    """

    class Reward(ORM):  # type: ignore[misc]
        def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
            """The reward of each answer; columns: those of the JSONL, and `rollout_infos`."""
            rows = [{key: columns[key][i] for key in COLUMNS if key in columns} for i in range(len(completions))]
            return [_score(name, function, row) for row in rows]

    Reward.__name__ = f"Relisten_{name}"
    return Reward


COLUMNS = ("id", "question", "choices", "solution", "segments", "rollout_infos")
"""What a reward reads of a row."""


def _score(name: str, function: RewardFunction, row: dict[str, Any]) -> float:
    info = (row.get("rollout_infos") or {}).get("relisten")
    if info is None:
        raise ValueError(
            f"relisten_{name}: the answer was not made by our scheduler; start `swift rollout` with"
            " --multi_turn_scheduler relisten"
        )
    example = Example(
        str(row.get("id") or ""),
        Path(),
        str(row.get("question") or ""),
        tuple(row.get("choices") or ()),
        row.get("solution"),
        labels={"segments": row["segments"]} if row.get("segments") else {},
    )
    return rewards.score({name: function}, traced(info), example)[name]


orms.update({f"relisten_{name}": reward(name, function) for name, function in rewards.KNOWN.items()})


# --- training -------------------------------------------------------------------------------------------------------


class RelistenTemplate(Qwen2_5OmniTemplate):  # type: ignore[misc]
    """Qwen2.5-Omni's template, which also reads audio inside of a response.

    ms-swift 4.6.0 gives a response as token ids from the rollout to the template, but then loads only the audio whose
    <audio> stands in the prompt, and adds an <audio> to the prompt for each segment. For SFT, the template writes a
    response with a <think> block as our engine would have generated it, the audio of each segment after its tag.
    """

    def _preprocess_inputs(self, inputs: Any) -> None:
        super()._preprocess_inputs(inputs)
        said = inputs.messages[-1]["content"]
        if self.is_training and isinstance(said, str) and "<think>" in said:
            written(loaded(self.model_info.model_dir)[0], inputs, said, self.processor.feature_extractor.n_samples)

    @staticmethod
    def _add_default_tags(inputs: Any) -> None:
        if get_token_backed_response_ids(inputs.messages[-1]["content"]) is None:
            Qwen2_5OmniTemplate._add_default_tags(inputs)

    def _encode(self, inputs: Any) -> dict[str, Any]:
        ids = get_token_backed_response_ids(inputs.messages[-1]["content"]) or []
        num_heard = ids.count(self._tokenize("<|AUDIO|>")[0])
        if num_heard and len(inputs.audios) != 1 + num_heard:
            raise ValueError(f"a response with {num_heard} segments has {len(inputs.audios)} pieces of audio")
        if num_heard:
            inputs.audios[1:] = [load_audio(piece, self.sampling_rate) for piece in inputs.audios[1:]]
        encoded: dict[str, Any] = super()._encode(inputs)
        return encoded


def written(model: AudioLM, inputs: Any, said: str, longest: int) -> None:
    """Put the tokens, the loss mask and the audio of a response with tags into the inputs of a template.

    longest: samples beyond which ms-swift's processor cuts audio. Raises ValueError for a recording that is longer, and
    for a response that is not one <think> block and then one <answer> block.
    """
    response = tags.parse(said)
    if response.think is None or response.answer is None or tags.write(response.think, response.answer) != said:
        raise ValueError(f"a response must be <think>...</think><answer>...</answer>, not {said[:60]!r}")
    if len(inputs.audios) != 1:
        raise ValueError(f"a row has {len(inputs.audios)} recordings in `audios`; relisten takes exactly one")
    given = read(inputs.audios[0], model.rate)
    example = Example("", given, "as in the messages", answer=response.answer, cot=response.think)
    recording = audible(model, given)
    if len(recording.samples) > longest:
        raise ValueError(
            f"a recording lasts {given.duration:.1f} s, and the model's processor cuts it at {longest / model.rate:g} s"
            " (chunk_length in preprocessor_config.json); raise that, or cut the recording"
        )
    trace = encode(model, example, chosen_format()).trace
    heard = [recording, *(OPERATIONS[x.operation](recording, x.segment) for x in trace.listens[1:])]
    token_ids, loss_mask = shortened(trace)
    inputs.messages[-1]["content"] = {"token_ids": token_ids, "loss_scale": loss_mask}
    inputs.audios = [as_piece(piece).url for piece in heard]
    inputs.extra_kwargs["add_eos"] = False  # the response ends with its end token


TEMPLATE_MAPPING[BASE].template_cls = RelistenTemplate
