"""Which of the choices an answer declares: one rule for `ask`, for evaluation and for pages.

Precision comes before recall: where an answer is not clear (it names two choices, or contradicts itself), no choice is
read. Every step takes time linear in the text, and a text longer than `LONGEST` is read at its end alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from relisten.mentions import joins, mentioned
from relisten.same_text import fold, key_of, unmarked

LONGEST = 4_000
"""Characters. A longer text is a whole chain of thought: only what it declares at its end counts."""
MOST_SAID = 40
"""Declarations that are read, the last ones of a text; a text with more of them repeats itself."""


def read_choice(answer: str | None, choices: Sequence[str]) -> str | None:
    """The choice that an answer declares, or None. An answer that is a choice to the letter declares that one. Else the
    first step that finds anything decides:

    1. the answer is a choice, up to case, punctuation at its ends, labels ("A. cow") and numerals (three = 3);
    2. the answer declares one ("The correct answer is B", `\\boxed{B}`, "B is correct", "答案是B");
    3. the answer begins with a label ("B", "(b)", "B) cat"), or is a bare number that names a place;
    4. exactly one choice is mentioned outside negations and questions ("Not the violin; it is a cat").

    A choice that is offered twice counts as one. Choices that differ in case alone are told apart by it.
    """
    if answer is None or not answer.strip():
        return None
    if exact := next((choice for choice in choices if choice.strip() == answer.strip()), None):
        return exact
    whole = unmarked(answer)
    options = _options(tuple(choices))
    steps: tuple[Callable[[str, tuple[Option, ...]], frozenset[int]], ...] = (_same, _declared, _labelled, _mentioned)
    if len(whole) > LONGEST:
        whole, steps = whole[-LONGEST:], (_declared,)
    for step in steps:
        if found := step(whole, options):
            return _one([options[index] for index in found], answer)
    return None


def _one(found: Sequence[Option], answer: str) -> str | None:
    """The choice that was found; of several that are alike, the one that is written to the letter."""
    if len(found) > 1 and _alike(found):
        found = [option for option in found if option.choice.strip() in answer]
    return found[0].choice if len(found) == 1 else None


def _alike(options: Sequence[Option]) -> bool:
    """Whether they differ in case or in the form of their characters alone."""
    return len({fold(option.choice) for option in options}) == 1


@dataclass(frozen=True)
class Option:
    """A choice as it is looked for."""

    choice: str
    """As it was offered."""
    places: tuple[int, ...]
    """Where it stands among the choices, from 0; several where it is offered twice."""
    label: str
    """Its own label in upper case ("A" of "A. cow"), or ""."""
    text: str
    """Plain text without the label, as `unmarked` gives it."""
    key: str
    """The same in lower case and with numerals as figures: what texts are compared by."""


# --- the choices as they are looked for -------------------------------------------------------------------------------

_OWN_LABEL = re.compile(r"\s*(?:[(\[]([A-Za-z]|\d{1,2})[)\]]|([A-Za-z])[.):]|(\d{1,2})[.)])\s+(?=\S)")
"""A choice's own label: "(A) cow", "A. cow", "[A] cow", "1) cow"."""


@lru_cache(maxsize=1024)
def _options(choices: tuple[str, ...]) -> tuple[Option, ...]:
    """The distinct choices. Labels of their own count only where every choice has one, and no two the same."""
    matches = [_OWN_LABEL.match(unmarked(choice)) for choice in choices]
    labels = [next(filter(None, m.groups())).upper() for m in matches if m]
    own = len(labels) == len(choices) and len(set(labels)) == len(labels)
    found: dict[str, Option] = {}
    for place, choice in enumerate(choices):
        plain, match = unmarked(choice), matches[place]
        text = plain[match.end() :] if own and match else plain
        same = choice.strip()
        if same in found:
            first = found[same]
            found[same] = Option(first.choice, (*first.places, place), first.label, first.text, first.key)
        else:
            found[same] = Option(choice, (place,), labels[place] if own else "", text, key_of(text))
    return tuple(found.values())


# --- 1. the same text -------------------------------------------------------------------------------------------------


def _same(text: str, options: Sequence[Option]) -> frozenset[int]:
    for form in (fold, key_of):
        for said in (text, _without_label(text)):
            keys = [(fold(o.choice), fold(o.text)) if form is fold else (o.key,) for o in options]
            found = frozenset(i for i, key in enumerate(keys) if form(said) in key and form(said))
            if len(found) > 1 and _alike([options[i] for i in found]):
                return found
            if len(found) != 1:
                continue
            label = _OWN_LABEL.match(text) if said != text else None
            # "B. dog" and "2. dog" contradict themselves where the second choice is the cat.
            return found | (_label(text, options) | _place(label[0], options) if label else frozenset[int]())
    return frozenset()


def _without_label(text: str) -> str:
    match = _OWN_LABEL.match(text)
    return text[match.end() :] if match else text


# --- 2. declarations --------------------------------------------------------------------------------------------------

_CUES = re.compile(
    r"\\boxed\s{0,3}\{|<answer>|\b(?:choice|option|letter)(?=['\"]\s{0,3}:)|\bletter is\b|\bcorrection(?=\s{0,3}:)"
    r"|\b(?:final|correct|right|best|my)[ _](?:answer|option|choice|pick)\b(?: (?:is|would be|must be|should be)\b)?"
    r"|\b(?:answer|ans)\b(?: (?:is|would be|must be|should be)\b|(?=['\"]?\s{0,3}[:=.–-]))|\bcorrect(?=\s{0,3}:)"
    r"|\b(?:i (?:would |will |'ll )?(?:choose|pick|select|say|go with|answer)|i'd (?:say|choose|pick|go with)"
    r"|(?:i'm|i am) going with|let's go with)\b"
    r"|^\s{0,9}(?:choose|select|pick|go with)\b"
    r"|\b(?:so|therefore|thus|hence),? (?:(?:it is|it's|it must be)\b"
    r"|(?=(?:option|choice|answer)\b|[(\[]?[A-Z][)\]]?[.!]?\s{0,3}(?:\n|$)))"
    r"|\b(?:die )?(?:richtige |korrekte )?antwort\b(?: (?:ist|lautet)\b|(?=\s{0,3}:))"
    r"|\blösung(?=\s{0,3}:)|\b(?:opción|option|opção|opzione) (?:correcta|correcte|correta|corretta) (?:est|es|é|è)\b"
    r"|\b(?:richtig ist|ich wähle|je choisis|je dirais|elijo|escojo|scelgo|escolho|я выбираю)\b"
    r"|\b(?:réponse|respuesta|risposta|resposta)(?: (?:correcte|juste|correcta|corretta|giusta|correta|certa))?"
    r"(?: (?:est|es|è|é)\b|(?=\s{0,3}:))"
    r"|\b(?:правильный )?ответ\b(?: это\b)?|\bđáp án(?: đúng)?(?: là\b)?|\b(?:doğru )?cevap\b"
    r"|الإجابة(?: الصحيحة)?(?: هي)?"
    r"|(?:正确|最终|最佳)?(?:答案|选项)(?:应该|应)?(?:是|为|選|选择?)?|正确的是|应为|選択肢|(?:我)?(?:应该|应)?选择?(?=[\s:]{0,3}[A-Za-z(\[「])"
    r"|(?:正解|答え|回答)(?:は)?|정답은|답은|정답(?=\s{0,3}:)",
    re.IGNORECASE,
)
_POINTS = re.compile(r"\b(?:it's|it is|that's|that is|this is|es ist|c'est)\b", re.IGNORECASE)
"""Before a label these declare; before other words they only describe."""
_VERDICT = re.compile(
    r"(?:\b(?:option|choice|answer)\s{1,3})?(?<![\w'])[(\[]?([A-Z]|[a-z](?=[)\]]))[)\]]?\s{1,3}"
    r"(?:is|would be|ist|est|es|è|é)\s{1,3}(?:the\s|la\s|die\s|a\s|o\s)?(?:only\s)?"
    r"(?:correct|right|best|answer|richtig|korrekt|correcte|correcta|corretta|correta|juste)\b"
    r"|(?<![A-Za-z])([A-Z])\s{0,3}(?:是正确|正确|が正解|が正しい|이 정답|가 정답)"
)
_BETWEEN = re.compile(
    r"['\"]?[\s:=>.—–-]{0,6}(?:(?:definitely|clearly|certainly|probably|(?:most )?likely|indeed)\s)?"
    r"(?:(?:the )?(?:option|choice|answer|letter|选项|opción)\b[\s:]{0,3})?",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[^\W\d_]{2})[.!?](?=\s|$)|[。！？\n}]|</|(?<=\d)[.!?](?=\s|$)")
_CORRECTION = re.compile(
    r"\b(?:final|wait|actually|correction|on second thought|in conclusion)\b|最终|最終", re.IGNORECASE
)
_NEGATED = re.compile(r"(?:not|neither|nicht|weder|pas|ni|non|no|não|не)\b|不", re.IGNORECASE)
_INSTEAD = re.compile(
    r"(?:\b(?:but|sondern|mais|sino|ma|mas|it's|it is)|而是|ではなくて?、?|[가이] 아니라)\s{0,3}", re.IGNORECASE
)
_DENIED = re.compile(
    r"[)\].\"'”]{0,2}\s{0,3}(?:"
    r"(?:is|was|seems|would be|ist|est|es|è|é)(?:n't|\s{1,3}(?:not|clearly|definitely|nicht|pas)\b)"
    r"|(?:is|was|seems|ist|est|es|è|é)\s{1,3}(?:wrong|incorrect|false|impossible|unlikely|out|falsch|faux|fausse)\b"
    r"|(?:can't|cannot|n'est pas|no es|non è|não é|не)\b"
    r"|(?:项|选项)?(?:是)?(?:不|错)|(?:では|じゃ|は)(?:な|あり|間違|違)"
    r"|[가이는은]\s(?:아니|아닙|틀)|라고 \w{1,4}지 않)",
    re.IGNORECASE,
)
"""What takes back the label before it."""
_UNSAID = re.compile(
    r"(?:n't|\bnot|\bnever)\s(?:really\s)?(?:think|believe|say|claim|mean|sure|certain|clear|know)\b[^,:]*$"
    r"|\b(?:doubt|unlikely|whether|unclear)\b[^,:]*$|(?<!even )\b(?:if|unless)\b(?! (?:i|we|anything)\b)"
    r"|\b(?:wenn|falls)\b|如果|不(?:认为|觉得|确定|知道)|\b(?:incorrect|wrong) to\b"
    r"|(?:不|别|不要|不能|不会)(?:应该|应|该)?$",
    re.IGNORECASE,
)
"""What stands before a declaration that is none ("I don't think the answer is A", "if the answer is A")."""
_TURN = re.compile(r"[;.!?；。！？\n]|\b(?:so|but|therefore|thus|hence)\b", re.IGNORECASE)
_REASON = re.compile(r"[,;(]|\b(?:because|since|as|due to|which|given)\b", re.IGNORECASE)
"""Where a declaration ends and its reason begins."""


def _declared(text: str, options: Sequence[Option]) -> frozenset[int]:
    """What declarations say; where they differ, the last one counts if it corrects the others."""
    said: list[tuple[int, frozenset[int]]] = []
    for cue in list(_CUES.finditer(text))[-MOST_SAID:]:
        if _is_unsaid(text, cue.start()):
            continue
        start = _BETWEEN.match(text, cue.end()).end()  # type: ignore[union-attr]  # it matches the empty text
        end = _SENTENCE.search(text, start + 1, min(len(text), start + 300))
        spoken = text[start : end.start() if end else start + 300]
        if end and end[0] == "?":
            continue
        if found := _object(spoken, options):
            said.append((cue.start(), found))
    for points in _POINTS.finditer(text):
        start = _BETWEEN.match(text, points.end()).end()  # type: ignore[union-attr]
        if found := _label(text[start : start + 40], options):
            said.append((points.start(), found))
    for verdict in _VERDICT.finditer(text):
        if not _is_unsaid(text, verdict.start()) and (found := _by_label(verdict[1] or verdict[2], options)):
            said.append((verdict.start(), found))
    if not said:
        return frozenset()
    said.sort(key=lambda pair: pair[0])
    every = frozenset[int]().union(*(found for _, found in said))
    if len(every) > 1 and len(said) > 1 and _CORRECTION.search(text, said[-2][0], said[-1][0] + 12):
        return said[-1][1]
    return every


def _is_unsaid(text: str, at: int) -> bool:
    """Whether the sentence before a declaration takes it back."""
    return bool(_UNSAID.search(_TURN.split(text[max(0, at - 80) : at])[-1]))


def _object(spoken: str, options: Sequence[Option]) -> frozenset[int]:
    """What a declaration's object means: a label, a choice, or a place ("option 2")."""
    if same := _same(spoken, options) or _named(spoken, options, whole=True):
        return same
    if _NEGATED.match(spoken) or _takes_back(spoken):
        return _instead(spoken, options)
    reason = _REASON.search(spoken)
    claimed = spoken[: reason.start()] if reason else spoken
    return _label(spoken, options) or _named(spoken, options) or _mentioned(claimed, options) or _place(spoken, options)


def _takes_back(text: str) -> bool:
    """Whether a text begins with a label that is denied at once ("A is not correct")."""
    label = _LABEL.match(text)
    return bool(label and _DENIED.match(text, label.end()))


def _instead(text: str, options: Sequence[Option]) -> frozenset[int]:
    """The label that stands in the place of a denied one: "not A but B"."""
    instead = _INSTEAD.search(text)
    return _label(text[instead.end() :], options) if instead else frozenset()


# --- 3. labels and places ---------------------------------------------------------------------------------------------

_SAYS = re.compile(
    r"\s{0,9}(?:(?:the\s{1,3})?(?:answer choice|answer|option|choice|letter)\s{0,3}[:#]?\s{0,3})?", re.IGNORECASE
)
_LABEL = re.compile(
    r"(?:[(\[<{\"'“]?(?P<whole>[A-Za-z])[)\]>}\"'”.:!]{0,2}\s{0,3}$"
    r"|[(\[<{\"'“]\s{0,3}(?P<inside>[A-Za-z])\s{0,3}[)\]>}\"'”]"
    r"|(?P<upper>[A-Z])(?=[.):,;!]|\s{0,3}$|[^\S\n]{0,3}\n|\s{1,3}[-–—(\"“]|\s{1,3}(?:because|since|as|due|which|is|given)\b|[^\x00-\x7f])"
    r"|(?P<late>[B-HJ-Z])(?=\s{1,3}[a-z])"
    r"|(?P<lower>[a-z])(?=[.):]?\s{0,3}$|[.)]\s))"
)
_LEAD = re.compile(r"[\s.):\]>,;\-–—(\"“]{0,6}(?:(?:the|a|an)\s)?", re.IGNORECASE)
_TWO_LABELS = re.compile(
    r"[\s)\].]{0,3}(?:,|/|&|\band\b|\bor\b|\bund\b|\boder\b|[和或与及跟と、か]|还是)\s{0,3}(?:both\s)?[(\[]?([A-Z])(?![A-Za-z0-9_'])"
    r"|[.)]?\s{0,3}\n\s{0,3}[(\[]?([A-Z])[)\].]{0,2}\s{0,3}(?:\n|$)"
)
_LABELS = re.compile(r"(?<![\w'])[(\[]?([A-Z])[.):\]]\s{1,3}(?=\S)")
_LAST = re.compile(r"[(\[]([A-Z])[)\]][\s.!]{0,9}$")
_NOTE = re.compile(r"\s*[A-G][#♯b♭]?(?:[\s-]{0,3}(?:flat|sharp|natural|major|minor|maj|min|m)){0,4}\s*")
_NUMBER = re.compile(r"(?:#|number )?[(\[]?\s{0,3}([1-9][0-9]?)\s{0,3}[.):\]]{0,2}\s*")
_ORDINAL = re.compile(
    r"(?:the )?(first|second|third|fourth|fifth|sixth|last) (?:option|choice|answer|one(?=[\s.!]{0,3}$))\b"
    r"|第([一二三四五六1-6])个?(?:选项|項|个)?$",
    re.IGNORECASE,
)
_ORDINALS = {w: n for n, w in enumerate(("first", "second", "third", "fourth", "fifth", "sixth"))} | {
    w: n for n, w in enumerate("一二三四五六")
}


def _labelled(text: str, options: Sequence[Option]) -> frozenset[int]:
    if _NEGATED.match(text) and (found := _instead(text, options)):
        return found
    start = _SAYS.match(text).end()  # type: ignore[union-attr]  # it matches the empty text
    found = _label(text[start:], options)
    if found:  # "A. dog: no. B. cat: yes." goes through the choices
        return found.union(*(_by_label(other, options) for other in _LABELS.findall(text)))
    if last := _LAST.search(text):  # "cat (B)"
        return _by_label(last[1], options) | _mentioned(text[: last.start()], options)
    return _place(text[start:], options)


def _label(text: str, options: Sequence[Option]) -> frozenset[int]:
    """What the label at the start of a text means, with any choice named right after it ("B. cat")."""
    match = _LABEL.match(text)
    if match is None or _DENIED.match(text, match.end()):
        return frozenset()
    found = _by_label(next(filter(None, match.groups())), options)
    if not found:
        return found
    rest = text[match.end() :]
    if other := _TWO_LABELS.match(rest):  # "A and C", "B or D"
        return found | (_by_label(other[1] or other[2], options) or found)
    return found | _named(rest, options, whole=True)


def _named(text: str, options: Sequence[Option], whole: bool = False) -> frozenset[int]:
    """The longest choice that a text begins with, an article left aside; with `whole`, only if the clause ends there.

    So "B. The dog." contradicts itself where B is the cat, and "B. The dog is heard later." does not.
    """
    key = key_of(_LEAD.sub("", text, count=1))
    found = [option.key for option in options if option.key and _begins(key, option.key)]
    longest = max(found, key=len, default=None)
    if longest is None or (whole and not re.match(r"\s*(?:$|[.,;:)!\n])", key[len(longest) :])):
        return frozenset()
    if _DENIED.match(key, len(longest)):
        return frozenset()
    return frozenset(i for i, option in enumerate(options) if option.key == longest)


def _begins(text: str, start: str) -> bool:
    return text.startswith(start) and not joins(start[-1], text[len(start) : len(start) + 2])


def _by_label(label: str, options: Sequence[Option]) -> frozenset[int]:
    """The choice with that label, or in that place; none where choices are notes (C, D major), which letters name."""
    label = label.upper()
    if all(option.label for option in options):
        return frozenset(i for i, option in enumerate(options) if option.label == label)
    if any(_NOTE.fullmatch(option.text) for option in options):
        return frozenset()
    place = ord(label) - ord("A")
    return frozenset(i for i, option in enumerate(options) if place in option.places)


def _place(text: str, options: Sequence[Option]) -> frozenset[int]:
    """The choice in that place, from 1. Where choices hold numbers, a bare number is (wrong) content and no place."""
    if ordinal := _ORDINAL.match(text):
        word = (ordinal[1] or ordinal[2]).lower()
        last = max((p for o in options for p in o.places), default=0)
        place = last if word == "last" else _ORDINALS.get(word, int(word) - 1 if word.isdigit() else -1)
    else:
        number = _NUMBER.fullmatch(key_of(text))
        if number is None:
            return frozenset()
        if all(o.label.isdigit() for o in options):
            return frozenset(i for i, o in enumerate(options) if o.label == number[1])
        if any(re.search(r"\d", o.key) for o in options):
            return frozenset()
        place = int(number[1]) - 1
    return frozenset(i for i, option in enumerate(options) if place in option.places)


# --- 4. mentions ------------------------------------------------------------------------------------------------------


def _mentioned(text: str, options: Sequence[Option]) -> frozenset[int]:
    return mentioned(text, key_of(text), [(option.text, option.key) for option in options])
