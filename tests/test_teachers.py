"""Teachers against a real server on loopback, and what is read from their replies."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from teacher_server import Fault, serving

from relisten import tags
from relisten.data import checks, compose, judge, teachers
from relisten.data.offline.drawing import draw
from relisten.data.offline.rules import Rules
from relisten.data.offline.timeline import SOLVERS, Timeline, right
from relisten.data.servers import Server, retry_after
from relisten.data.store import Call
from relisten.data.teachers import Recorded, open_teacher
from relisten.types import Audio, Clip, Event

MESSAGES = [{"role": "user", "content": "hello"}]


def clip(seed: int = 0, num: int = 5) -> Clip:
    """A recording of which only the events matter: nothing overlaps, attributes as scenes have them."""
    rng = np.random.default_rng(seed)
    labels = [str(label) for label in rng.permutation(["dog", "bell", "horn", "rain", "siren", "knock", "tone"])]
    events = []
    for n in range(num):
        start = 1.5 * n + float(rng.uniform(0, 0.3))
        labels_of = {"group": "word"} if n == 2 else {}
        label = "seven" if n == 2 else labels[0] if n == 4 and seed % 2 else labels[n]
        events.append(Event(label, round(start, 2), round(start + float(rng.uniform(0.4, 1.1)), 2), labels_of))
    return Clip(f"clip-{seed}", Audio(np.zeros(8, np.float32)), 1.5 * num + 0.5, tuple(events))


LABELS = {"": dict.fromkeys(("dog", "bell", "horn", "rain", "siren", "knock", "tone"), 5),
          "word": dict.fromkeys(("one", "two", "six", "seven", "nine"), 3)}  # fmt: skip


def complete(fault: Fault, retries: int = 3, times: int = 1, **more: object) -> tuple[list[Call], list[float], int]:
    async def ask(server: Server) -> list[Call]:
        teacher = open_teacher("m", server)
        try:
            return list(await asyncio.gather(*(teacher.complete(messages()) for _ in range(times))))
        finally:
            await teacher.close()

    with serving(fault) as server:
        calls = asyncio.run(ask(Server(url=server.url, retries=retries, **more)))  # type: ignore[arg-type]
        return calls, server.times, server.num


def messages() -> list[dict[str, str]]:
    rng = np.random.default_rng(1)
    return list(compose.ask(clip(), compose.read_prompts(), LABELS, rng)[1])


@pytest.mark.parametrize("fault", ["429 0.05", "500", "503 0", "empty", "torn"])
def test_a_passing_failure_is_tried_again_and_every_request_counted(fault: str) -> None:
    [call], _, num = complete(lambda number, _: fault if number == 1 else "")
    assert not call.error and compose.read_draft(call.text).question
    assert call.attempts == num == 2 and call.thought == "hm"
    assert call.prompt_tokens == (400 if fault == "empty" else 200)  # an empty reply is paid for, too


def test_a_lasting_failure_is_not_tried_again() -> None:
    for fault, failure in (("refusal", "lasting"), ("400", "lasting"), ("401", "fatal"), ("402", "fatal")):
        [call], _, num = complete(lambda number, _, fault=fault: fault)
        assert (call.failure, call.attempts, num) == (failure, 1, 1) and call.error and not call.text


def test_what_keeps_failing_is_an_error_with_its_reason() -> None:
    [call], _, num = complete(lambda number, _: "429 0.01", retries=2)
    assert call.failure == "passing" and "slow down" in call.error and call.attempts == num == 3
    [call], _, num = complete(lambda number, _: "timeout 0.6", retries=0, timeout=0.2)
    assert call.failure == "passing" and "imeout" in call.error


def test_retry_after_holds_back_every_call() -> None:
    calls, times, _ = complete(lambda number, _: "429 0.5" if number == 1 else "", times=2)
    assert all(not call.error for call in calls)
    assert max(times) - min(times) >= 0.45


def test_the_time_to_wait_is_read_in_every_form() -> None:
    def after(headers: dict[str, str]) -> float | None:
        return retry_after(headers)

    assert after({"retry-after": "1.5"}) == 1.5 and after({"retry-after-ms": "250"}) == 0.25
    assert 50 < (after({"retry-after": formatdate(time.time() + 60, usegmt=True)}) or 0) <= 60
    assert after({}) is after({"retry-after": "soon"}) is None


def test_requests_keep_their_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def four(turn: teachers.Turn) -> None:
        for _ in range(4):
            await turn.wait()

    monkeypatch.setattr(teachers, "time", SimpleNamespace(monotonic=lambda: 100.0))  # a clock that stands still
    monkeypatch.setattr(teachers.asyncio, "sleep", sleep)
    asyncio.run(four(teachers.Turn(0.05)))
    assert waited == pytest.approx([0.0, 0.05, 0.1, 0.15])


def test_a_pause_holds_back_those_that_have_their_turn_already(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = [100.0], list[float]()

    async def sleep(seconds: float) -> None:
        clock[0] += seconds

    async def three(turn: teachers.Turn) -> None:
        for _ in range(3):
            if len(asked) == 1:
                turn.pause(3.0)  # as a 429 bids, while others wait for their turn
            await turn.wait()
            asked.append(clock[0])

    monkeypatch.setattr(teachers, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(teachers.asyncio, "sleep", sleep)
    asyncio.run(three(teachers.Turn(0.5)))
    assert asked == pytest.approx([100.0, 103.0, 103.5])


def test_a_composer_and_a_judge_of_one_server_take_turns() -> None:
    with serving() as server:
        here = Server(url=server.url, requests_per_minute=60)
        composer, judge = teachers.open_teachers(("m", here), ("n", here))
        other, _ = teachers.open_teachers(("m", replace(here, url=server.url + "/")), ("m", here))
        assert composer.turn is judge.turn is not other.turn  # type: ignore[attr-defined]


def test_settings_reach_the_server_and_prices_make_a_cost() -> None:
    with serving() as server:
        teacher = open_teacher(
            "m",
            Server(url=server.url, temperature=0.5, max_tokens=99, json_mode=True, price_in=1e4, price_out=2e4),
        )
        call = asyncio.run(teacher.complete(messages()))
        [body] = server.bodies
    assert body["temperature"] == 0.5 and body["max_tokens"] == 99 and body["response_format"]["type"] == "json_object"
    assert call.cost == pytest.approx(200 * 0.01 + 50 * 0.02)


def test_a_missing_key_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        open_teacher("gpt")


def test_recorded_replies_are_found_by_their_messages(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(json.dumps({"messages": MESSAGES, "text": "hi", "prompt_tokens": 7}) + "\n")
    teacher = Recorded(path)
    assert asyncio.run(teacher.complete(MESSAGES)) == Call("hi", prompt_tokens=7)
    assert asyncio.run(teacher.complete([*MESSAGES, *MESSAGES])).failure == "lasting"


@pytest.mark.parametrize(
    "wrapped",
    [
        "{0}", "```json\n{0}\n```", "<think>first {{}} then</think>\n{0}", "Sure!\n{0}\nAnything else?",
        '{{"note": 1}} {0}',
    ],
)  # fmt: skip
def test_json_is_found_whatever_stands_around_it(wrapped: str) -> None:
    text = '{"question": "Which?", "choices": ["A. a dog", "B. a cat",], "answer": "B. A Cat", "think": '
    text += '"so\n<seg>1, 2</seg>"}'
    draft = compose.read_draft(wrapped.format(text))
    assert draft.choices == ("a dog", "a cat") and draft.answer == "a cat" and "<seg>1, 2</seg>" in draft.cot


def test_a_letter_is_taken_for_its_choice() -> None:
    text = json.dumps({"question": "Q?", "choices": {"A": "x", "B": "y"}, "answer": "B", "think": "t"})
    assert compose.read_draft(text).answer == "y"


@pytest.mark.parametrize("text", ["", "no", '{"question": "half', "[1, 2]", '{"question": "Q?"}', "{" * 5000])
def test_what_cannot_be_read_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON"):
        compose.read_draft(text)


def test_verdicts_are_read_in_the_forms_models_write_them() -> None:
    read = judge.read_verdict
    assert read("[QA valid]: Yes\n[COT valid]: No\n[Reason]: made up") == judge.Verdict(True, False, "made up")
    assert read("**[QA valid]**: yes\n- [CoT valid]: **Yes**\n[Reason]: nothing.") == judge.Verdict(True, True)
    assert read("[QA valid]: Yes\n[CoT valid]: Yes\nOn reflection\n[QA valid]: No") == judge.Verdict(False, True)
    with pytest.raises(ValueError, match="CoT valid"):
        read("[QA valid]: Yes")


@pytest.mark.parametrize("kind", list(SOLVERS))
def test_what_rules_ask_has_one_right_answer_by_rules_of_their_own(kind: str) -> None:
    found = 0
    for seed in range(60):
        known = compose.evidence(clip(seed, 5))["A4_events"]
        events = tuple(Event(e["label"], e["start"], e["end"], {"group": e.get("group")}) for e in known)
        if kind == "together":
            events = (events[0], Event("drill", events[0].start + 0.1, events[0].end + 0.2), *events[1:])
        if kind == "louder":
            events = tuple(replace(e, labels={"level": -8.0 * (n % 3)}) for n, e in enumerate(events))
        if kind == "detail":
            events = (Event("flute", 0.0, 0.5, {"attribute": "pitch", "value": "low"}), *events)
        timeline = Timeline(events, 8.0, (("crow", "saw", "owl", "goat"),), ("one", "two", "six"))
        asked = draw(kind, np.random.default_rng(seed), timeline)
        if asked is not None:
            found += 1
            assert right(kind, asked.about, timeline) & set(asked.choices) == {asked.answer}
            assert len(set(asked.choices)) == len(asked.choices) > 1
    assert found > 5


@pytest.mark.parametrize(
    ("kind", "before", "after", "answers"),
    [
        ("longer", (1.0, 0.0), (0.4, 0.0), {"the one before"}),
        ("longer", (0.4, 0.0), (1.0, 0.0), {"the one after"}),
        ("longer", (1.0, 0.0), (0.9, 0.0), {"the one before", "the one after"}),  # nobody could tell
        ("louder", (0.5, -1.0), (0.5, -9.0), {"the one before"}),
        ("louder", (0.5, -9.0), (0.5, -1.0), {"the one after"}),
        ("louder", (0.5, -4.0), (0.5, -1.0), {"the one before", "the one after"}),
        ("louder", (0.5, None), (0.5, -1.0), set()),  # a source that tells no levels
    ],
)
def test_of_two_neighbours_one_is_longer_or_louder_where_that_can_be_told(
    kind: str, before: tuple[float, float | None], after: tuple[float, float | None], answers: set[str]
) -> None:
    events = tuple(
        Event(label, start, start + length, {} if level is None else {"level": level})
        for label, start, (length, level) in (("dog", 0.0, before), ("bell", 2.0, (0.5, 0.0)), ("saw", 4.0, after))
    )
    assert right(kind, ("bell",), Timeline(events, 6.0)) == answers
    assert right(kind, ("dog",), Timeline(events, 6.0)) == set()  # nothing comes before it
    close = (*events, Event("owl", 4.1, 5.0))
    assert right(kind, ("bell",), Timeline(close, 6.0)) == set()  # which came right after it, the saw or the owl?


RAIN, DOG = Event("rain", 0.0, 5.0), Event("dog", 1.0, 1.5)


@pytest.mark.parametrize(
    ("kind", "about", "events", "answers"),
    [
        ("after", "rain", (RAIN, DOG, Event("cat", 5.3, 6.0)), {"dog", "cat"}),  # after it began, after it ended
        ("before", "cat", (RAIN, DOG, Event("cat", 4.0, 6.0)), {"dog"}),
        ("before", "cat", (DOG, Event("rain", 0.5, 5.0), Event("cat", 6.0, 7.0)), {"dog", "rain"}),
        ("longer", "dog", (RAIN, DOG, Event("cat", 6.0, 6.5)), set()),  # the rain is not over
        ("count", "dog", (DOG, Event("dog", 1.6, 2.0)), set()),  # once or twice?
        ("count", "dog", (DOG, Event("dog", 3.0, 4.0)), {"2"}),
        ("longest", "", (DOG, Event("dog", 1.5, 4.0), Event("cat", 5.0, 8.2)), {"dog", "cat"}),  # 3.0 s in one
        ("longest", "", (DOG, Event("dog", 3.0, 4.0), Event("cat", 5.0, 8.2)), {"cat"}),
        ("first", "", (Event("bark", 0.0, 1.0, {"kind_of": "animal; dog"}), Event("dog", 5.0, 6.0)), {"bark", "dog"}),
        ("between", "dog cat", (RAIN, DOG, Event("cat", 3.0, 4.0)), {"rain"}),
    ],
)
def test_what_could_be_taken_in_two_ways_has_two_answers(
    kind: str, about: str, events: tuple[Event, ...], answers: set[str]
) -> None:
    events = tuple(sorted(events, key=lambda event: event.start))
    assert right(kind, about.split(), Timeline(events, 9.0)) == answers


def test_a_more_general_name_is_no_wrong_choice() -> None:
    bark = Event("Bark", 1.0, 2.0, {"kind_of": "Animal; Domestic animals, pets; Dog"})
    one = Clip("c", Audio(np.zeros(8, np.float32)), 9.0, (bark, Event("Bell", 3.0, 4.0)))
    labels = compose.survey([one]) | {"": dict.fromkeys(("Animal", "Dog", "Bark", "Growling", "Bell", "Siren"), 5)}
    labels["kind_of"]["Growling"] = "Animal; Domestic animals, pets; Dog"
    _, [message] = compose.ask(one, compose.read_prompts(), labels, np.random.default_rng(0))
    request = compose.unblock("request", message["content"])
    assert request is not None and set(request["other_labels"]) == {"Growling", "Siren"}
    assert checks.said("Roaring cats (lions, tigers)") == "roaring cats"


def test_rules_compose_what_the_checks_and_the_judge_accept_and_differently_each_time() -> None:
    prompts, chains = compose.read_prompts(), set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        _, asked = compose.ask(clip(seed), prompts, LABELS, rng)
        reply = asyncio.run(Rules().complete(asked))
        draft = compose.read_draft(reply.text)
        assert checks.question_fault(draft) == "" == checks.cot_fault(draft, clip(seed)), draft
        asked_judge = judge.ask_judge(clip(seed), draft, prompts, rng)
        verdict = judge.read_verdict(asyncio.run(Rules().complete(asked_judge)).text)
        assert verdict == judge.Verdict(True, True), (draft, verdict)
        assert tags.parse(tags.write(draft.cot, draft.answer)).well_formed
        chains.add(" ".join(checks.words(draft.cot)[:5]))
    assert len(chains) > 20


def test_short_chains_are_valid_too_and_name_what_was_heard_before() -> None:
    prompts = compose.read_prompts()
    for seed in range(40):
        _, asked = compose.ask(clip(seed), prompts, LABELS, np.random.default_rng(seed), compose.find_manner("short"))
        draft = compose.read_draft(asyncio.run(Rules().complete(asked)).text)
        assert checks.question_fault(draft) == "" == checks.cot_fault(draft, clip(seed)), draft
        judged = judge.ask_judge(clip(seed), draft, prompts, np.random.default_rng(0))
        assert judge.read_verdict(asyncio.run(Rules().complete(judged)).text) == judge.Verdict(True, True), draft
        assert draft.cot.startswith(f"{clip(seed).events[0].start:.1f} ") and len(checks.words(draft.cot)) < 45
        last = draft.cot[checks.sentences_end(draft.cot) :]
        assert draft.answer.casefold() in last.casefold(), draft  # told by what was heard last, or by a conclusion
        assert draft.question.count(" ") < 16


def test_a_manner_is_one_of_the_known_or_a_sentence() -> None:
    assert compose.find_manner("") == "" and compose.find_manner("brief") == compose.MANNERS["brief"]
    assert compose.find_manner("like a sailor") == "like a sailor"
    with pytest.raises(ValueError, match=r"manner 'terse' is not known; give one of overview, .*short, or a sentence"):
        compose.find_manner("terse")
    _, [message] = compose.ask(clip(), compose.read_prompts(), LABELS, np.random.default_rng(0), "like a sailor")
    assert '"manner": "like a sailor"' in message["content"]


def test_the_rules_judge_refuses_wrong_answers_and_wrong_places() -> None:
    one = clip(0)
    first, second = one.events[0].label, one.events[1].label
    cot = f"Listen <seg>{one.events[1].start}, {one.events[1].end}</seg>: the {second}. So it is {second}."
    draft = compose.Draft(f"What follows the {first}?", (second, "owl"), second, cot, "after", (first,))

    def verdict(draft: compose.Draft) -> judge.Verdict:
        asked = judge.ask_judge(one, draft, compose.read_prompts(), np.random.default_rng(0))
        return judge.read_verdict(asyncio.run(Rules().complete(asked)).text)

    assert verdict(draft) == judge.Verdict(True, True)
    assert not verdict(replace(draft, answer="owl")).question_ok
    assert not verdict(replace(draft, kind="mood")).question_ok
    assert verdict(replace(draft, cot=cot.replace("So it is", "So not"))).question_ok
    assert not verdict(replace(draft, cot="I do not listen. So it is " + second)).cot_ok
    assert not verdict(replace(draft, cot=cot.rpartition("So")[0] + "So it is the owl.")).cot_ok


def test_own_prompts_take_the_place_of_the_shipped(tmp_path: Path) -> None:
    (tmp_path / "compose_mine.md").write_text("Know $evidence, write $request. It costs $$1.")
    prompts = compose.read_prompts(tmp_path)
    assert list(prompts.compose) == ["compose_mine"] and list(prompts.judge) == ["judge"]
    name, [message] = compose.ask(clip(), prompts, LABELS, np.random.default_rng(0))
    assert name == "compose_mine" and "It costs $1." in message["content"]
    (tmp_path / "compose_mine.md").write_text("Just write.")
    compose.read_prompts.cache_clear()
    with pytest.raises(ValueError, match="evidence"):
        compose.read_prompts(tmp_path)


def test_no_identifier_reaches_a_teacher() -> None:
    one = Clip("c", Path("a.wav"), 5.0, (Event("/m/053hz1", 0, 1), Event("Dog", 1, 2, {"mid": "/m/0bt9lr"})))
    assert "/m/" not in json.dumps(compose.evidence(one)) and compose.survey([one]) == {"": {"Dog": 1}}


def test_an_address_that_is_none_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="write a server's address"):
        open_teacher("some-model", Server(url="localhost:8000/v1"))
