"""Describers say what a recording sounds like (A1), what is said in it (A2), and which music it holds (A3).

    ears, ears#NAME            small models that need no network (ears.py); they find events and spoken words as well;
                               NAME is another Whisper than tiny.en: a folder, or a model of the Hub (small, large-v3)
    Qwen/Qwen2.5-Omni-7B       a model that relisten runs itself, by its name on the Hub or its folder
    http://host:8000/v1#NAME   a server that takes audio in OpenAI's form (vLLM ...); NAME if it has several models
    module:function            your own: Clip -> {"sound", "speech", "music"}, or Clip -> Clip

A describer is a function of a clip. It never changes the source's own events and descriptions.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from relisten import redact
from relisten.audio import RATE, encoded, load
from relisten.data import servers
from relisten.data.compose import SHIPPED
from relisten.data.kinds import MUSIC, SPEECH, musical, spoken
from relisten.data.messages import Messages
from relisten.data.servers import DEFAULT, CallFailed, Server
from relisten.data.store import Call
from relisten.data.teachers import Remote
from relisten.run import resolve
from relisten.types import Audio, Clip, Event, Example

if TYPE_CHECKING:
    from relisten.models.base import AudioLM

Describer = Callable[[Clip], Clip]
AskAboutAudio = Callable[[str, Audio], str]
"""(prompt, recording) -> text."""
KEYS = ("sound", "speech", "music")
"""A1, A2, A3: the keys of `Clip.descriptions`."""


@dataclass
class Used:
    """Requests and tokens that one recording needed, failed requests included."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


used: ContextVar[Used] = ContextVar("used")
"""Where `remote` counts requests and tokens. To read the counts, set a new `Used` before describing."""
MOST_TOKENS = 512
"""Most tokens in a description."""
MOST_CHARACTERS = 8_000
"""A longer description is cut, since a server may ignore the limit on tokens."""


def find(name: str, server: Server = DEFAULT) -> Describer:
    """The describer of a name (see above). Raises ValueError if there is none, or if it cannot be loaded.

    server: its timeout and retries apply to a describing server.
    """
    if name.partition("#")[0] == "ears":
        from relisten.data.offline import ears

        whisper = name.partition("#")[2]
        ears.check(whisper)
        return lambda clip: settled(clip, ears.listen(clip, whisper))
    if re.match(r"https?://", name):
        url, _, model = name.partition("#")
        return from_ask(remote(url, model, server))
    if ":" in name:
        own: Callable[[Clip], Clip | Mapping[str, str]] = resolve(name)
        return lambda clip: settled(clip, own(clip))
    from relisten.models import load as load_model

    return from_ask(local(load_model(name)))


def from_ask(ask: AskAboutAudio) -> Describer:
    """A describer that asks for the descriptions that a clip does not have yet."""

    def describe(clip: Clip) -> Clip:
        heard = clip.audio if isinstance(clip.audio, Audio) else load(clip.audio)
        wanted = [key for key in KEYS if not clip.descriptions.get(key)]
        return settled(clip, {key: ask(prompt(key, clip), heard) for key in wanted})

    return describe


def prompt(key: str, clip: Clip) -> str:
    """The text of prompts/describe_<key>.md, with the labels that the clip has already."""
    text = (SHIPPED / f"describe_{key}.md").read_text(encoding="utf-8")
    listed = "; ".join(f"{event.label} from {event.start:.1f} to {event.end:.1f} s" for event in clip.events)
    labels = f"It is certain that this is heard: {listed}." if listed else ""
    return Template(text).substitute(duration=f"{clip.duration:.1f}", labels=labels).strip()


def local(model: AudioLM, max_new_tokens: int = 256) -> AskAboutAudio:
    """A model in this process as describer: plain prompts, greedy decoding, no reasoning, no segments."""
    from relisten.engine.engine import Engine, GenerationConfig
    from relisten.models.base import Prompts

    model.prompts = Prompts(system=model.prompts.system, instructions={"conditioned": ""})
    engine = Engine(model, max_rows=1)
    config = GenerationConfig(format="conditioned", temperature=0.0, max_new_tokens=max_new_tokens)

    def ask(prompt: str, heard: Audio) -> str:
        [[trace]] = engine.generate([Example("clip", heard, prompt)], config)
        # At the limit of tokens the engine asks for an answer; the text before that is the description.
        return next((piece for piece in re.split(r"</?(?:think|answer)>", trace.text) if piece.strip()), "").strip()

    return ask


def remote(url: str, model: str = "", server: Server = DEFAULT) -> AskAboutAudio:
    """A server that takes audio in OpenAI's chat form, asked with the limits of `server`. Asking raises CallFailed."""
    # The caller computes the cost from `used`. The key of a teacher on another server is never sent here.
    here = Server(url=url, temperature=0.0, max_tokens=MOST_TOKENS, timeout=server.timeout, retries=server.retries)
    names = [model] if model else []
    reached = False
    servers.ready(here, "a describing server")

    async def complete(messages: Messages) -> Call:
        nonlocal reached
        teacher = Remote(names[0] if names else "", here, may_be_empty=True)
        teacher.reached = reached
        try:
            if not names:
                found = await teacher.models()
                if len(found) != 1:
                    listed = redact.one_line(", ".join(found)) or "none"
                    raise CallFailed(f"has the models {listed}; name one as {redact.redact(url)}#NAME", "fatal")
                names.append(found[0])
                teacher.model = found[0]
            return await teacher.complete(messages)
        finally:
            reached = reached or teacher.reached
            await teacher.close()

    def ask(prompt: str, heard: Audio) -> str:
        content: Any = [
            {"type": "input_audio", "input_audio": {"data": wav(heard), "format": "wav"}},
            {"type": "text", "text": prompt},
        ]
        try:
            call = asyncio.run(complete([{"role": "user", "content": content}]))
        except CallFailed as failed:
            raise CallFailed(f"{redact.redact(url)}: {failed}", failed.failure) from None
        count = used.get(None) or Used()
        count.requests += call.attempts
        count.prompt_tokens += call.prompt_tokens
        count.completion_tokens += call.completion_tokens
        if call.failure:
            raise CallFailed(f"{redact.redact(url)}: {call.error}; check that it takes audio", call.failure)
        return call.text[:MOST_CHARACTERS]

    return ask


def wav(audio: Audio) -> str:
    """A recording as a 16-bit WAV file in base64."""
    return base64.b64encode(encoded(np.clip(audio.samples, -1, 1), audio.rate or RATE, "WAV")).decode()


# Which parts of a description are kept.


def settled(clip: Clip, found: Clip | Mapping[str, str]) -> Clip:
    """The clip with what a describer found, unless the source says it itself or its labels contradict it."""
    texts, events = (found.descriptions, found.events) if isinstance(found, Clip) else (dict(found), clip.events)
    kept = reconcile({key: texts.get(key, "") for key in KEYS}, clip)
    own = {key: text for key, text in clip.descriptions.items() if text}
    return replace(clip, events=clip.events or events, descriptions=kept | own)


IDENTIFIER = re.compile(r"/(?:m|g|t)/[\w]+")
NONE = re.compile(r"\W*(?:none|no (?:speech|music)|there is no (?:speech|music)|n/?a)\b[^.]*\.?\s*", re.IGNORECASE)
DENIED = re.compile(
    r"\b(?:no|nobody|none|nothing|not|without|never|absent|absence|lacks?|neither|nor|n't|cannot|hardly)\b|n't\b", re.I
)
COMPLETE = ("audioset-", "desed-", "audiotime-")
"""How the ids of those sources begin that label every audible sound. The project's own scenes do so too."""


def reconcile(texts: Mapping[str, str], clip: Clip) -> dict[str, str]:
    """Descriptions without the sentences that the clip's labels contradict.

    Texts that say nothing or repeat themselves are dropped, as are sentences with identifiers (/m/...) and sentences
    that deny a labelled sound. If the labels are complete and name no speech (or music), sentences about it are dropped
    too.
    """
    kept: dict[str, str] = {}
    for key, text in texts.items():
        text = " ".join(text.split())
        empty = not text or (key != "sound" and NONE.fullmatch(text)) or garbage(text)
        if empty or (complete(clip) and absent(key, clip)):
            continue
        sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", text)
        if fitting := [sentence for sentence in sentences if not contradicted(sentence, clip)]:
            kept[key] = " ".join(fitting)
    return kept


def contradicted(sentence: str, clip: Clip) -> bool:
    """Whether a sentence cannot be true if the clip's labels are, or names an identifier instead of a sound."""
    if IDENTIFIER.search(sentence):
        return True
    if DENIED.search(sentence):
        return any(_mentions(sentence, event) for event in clip.events)
    patterns = {"speech": SPEECH, "music": MUSIC}
    return complete(clip) and any(absent(key, clip) and pattern.search(sentence) for key, pattern in patterns.items())


def absent(key: str, clip: Clip) -> bool:
    """Whether the labels of a clip have no speech (or no music)."""
    kind = {"speech": spoken, "music": musical}.get(key)
    return kind is not None and bool(clip.events) and not any(map(kind, clip.events))


def complete(clip: Clip) -> bool:
    """Whether the clip's labels name every audible sound."""
    return clip.id.startswith(COMPLETE) or any("heard" in event.labels for event in clip.events)


def garbage(text: str) -> bool:
    """Whether a text has fewer than three words, or repeats a phrase of four words at least four times."""
    words = text.casefold().split()
    phrases = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(words) < 3 or max(phrases.values(), default=0) >= 4


def _mentions(sentence: str, event: Event) -> bool:
    """Whether a word of the label (of its first name, for "Bark, woof") is in the sentence."""
    words = re.findall(r"[A-Za-z]{3,}", event.label.split(",")[0])
    return any(re.search(rf"\b{word}", sentence, re.IGNORECASE) for word in words if word.lower() not in _SMALL)


_SMALL = {"and", "the", "with", "sound", "sounds", "effect", "from", "noise", "small", "large"}
