"""10,000 random cases for each published scoring script, ours and theirs.

    python tests/published_scores.py FOLDER

FOLDER holds checkouts of the scripts' repositories: MMAR (3bce090), MMAUPro (960e93a), MMSU (217d1d3) and AIR-Bench
(9832476). Their code runs there and is not part of relisten; what it gives is written to
fixtures/published_scores.json, as one short hash for each hundred cases, or as counts. tests/test_published_scores.py
compares ours with that.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from relisten.evals import instructions, judges
from relisten.evals.benchmarks import air_bench, mmsu
from relisten.evals.figures import right
from relisten.evals.scoring import word_match

FIXTURE = Path(__file__).parent / "fixtures" / "published_scores.json"
NUM = 10_000
WORDS = [
    "Bell",
    "bell",
    "cow",
    "the",
    "THE",
    "two",
    "3:1",
    "1:3",
    "a,",
    "rings.",
    "*x*",
    "[y]",
    "<<T>>",
    '"',
    "P.S.",
    ",",
]


def blocks(results: Iterable[Any]) -> list[str]:
    """A short hash of each hundred results, so that a difference can be found."""
    found = [json.dumps(result) for result in results]
    parts = ("\n".join(found[at : at + 100]) for at in range(0, len(found), 100))
    return [hashlib.sha256(part.encode()).hexdigest()[:8] for part in parts]


def some(rng: random.Random, most: int) -> str:
    """Words of an odd vocabulary, with odd blanks between them."""
    return "".join(rng.choice(WORDS) + rng.choice([" ", " ", "  ", "\n", "\n* ", "***", "******", "."])
                   for _ in range(rng.randrange(most)))  # fmt: skip


# --- the cases --------------------------------------------------------------------------------------------------------


def words(num: int = NUM) -> Iterator[tuple[str, str, list[str]]]:
    """(prediction, answer, choices) for the rule on words."""
    rng = random.Random(1)
    for _ in range(num):
        choices = [some(rng, 4) for _ in range(rng.randrange(1, 5))]
        answer = rng.choice(choices)
        yield rng.choice([answer, rng.choice(choices), f"The answer is {answer}", some(rng, 6)]), answer, choices


def replies(num: int = NUM) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """(rubric, reply of a judge) of MMAR-Rubrics; half of the replies are spoilt in some way."""
    rng = random.Random(2)
    for _ in range(num):
        rubric = [
            {"name": f"c{n}", "scoring_point": "s", "choices": rng.choice([[0, 1], [0, 1, 2], [0, 0.5, 1], [0]])}
            for n in range(rng.randrange(1, 6))
        ]
        items: list[Any] = [{"name": c["name"], "score": rng.choice(c["choices"]), "why": "[x]"} for c in rubric]
        reply = json.dumps(items)
        spoils: list[Callable[[], str]] = [
            lambda items=items: json.dumps(items[:-1]),
            lambda items=items: json.dumps([*items, {"name": "more", "score": 1}]),
            lambda items=items: json.dumps([*items[:-1], items[-1] | {"score": rng.choice([7, "1", None, True, -1])}]),
            lambda items=items: json.dumps([{"score": 0}, *items[1:]]),
            lambda items=items: json.dumps([*items[:-1], {"name": "another", "score": items[-1]["score"]}]),
            lambda reply=reply: f"```json\n{reply}\n```",
            lambda reply=reply: f"I say [this] {reply} and [that].",
            lambda reply=reply: reply.replace("]", "", 1),
            lambda reply=reply: f"{reply}\n{reply}",
            lambda items=items: json.dumps(items[0]),
            lambda: "no list",
        ]
        yield rubric, rng.choice(spoils)() if rng.random() < 0.5 else reply


def judged(num: int = NUM) -> Iterator[tuple[str, str, list[str], list[float]]]:
    """(prediction, answer, choices, the scores of five runs) of MMAR-Rubrics."""
    rng = random.Random(3)
    for prediction, answer, choices in words(num):
        yield prediction, answer, choices, [rng.randrange(6) / 5 for _ in range(5)]


NAMES = [*instructions._COUNTED, *instructions._HELD, "Repeat Prompt", "Sing"]


def followed(num: int = NUM) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """(answer, instruction, what it asks for, prompt) of MMAU-Pro."""
    rng = random.Random(4)
    for _ in range(num):
        text, prompt = some(rng, 9), some(rng, 3)
        text = rng.choice([text, text.upper(), text.lower(), f'"{text.strip()}"', prompt + text])
        given = {name: rng.randrange(5) for name in ("N", "N1", "N2")}
        given["N2"] += given["N1"]
        # None of these texts is a pattern that means something in their place of the rule.
        picked = {name: rng.choice(WORDS) for name in ("keyword", "postscript_marker", "start_phrase", "end_phrase")}
        lists = {name: ", ".join(rng.sample(["bell", "cow", "two"], 2)) for name in ("keywords", "forbidden_words")}
        arguments = given | picked | lists | {"section_splitter": rng.choice(["***", "the", "a,"])}
        yield text, rng.choice(NAMES), arguments, prompt


def graded(num: int = NUM) -> Iterator[str]:
    """Replies of a judge of MMAU-Pro's open answers, some without some of the lines."""
    rng = random.Random(5)
    for _ in range(num):
        names = ["CORRECTNESS", "RELEVANCE", "COMPLETENESS", "CLARITY", "OVERALL"]
        kept = rng.sample(names, rng.randrange(1, 6))
        lines = []
        for name in kept:
            number = (
                rng.choice(["1", "2", "3", "4", "5", "3.0"]) if name != "OVERALL" else f"{rng.randrange(4, 21) / 4}"
            )
            form = rng.choice(["{}: {} - why", "{}:{}", "**{}:** {}", "{}: {}/5", "{}:\n{}"])
            lines.append(form.format(rng.choice([name, name.title()]), number))
        yield rng.choice(["", "Here:\n"]) + "\n".join(lines) if any("**" not in x for x in lines) else "CLARITY: 4"


def lettered(num: int = NUM) -> Iterator[tuple[dict[str, Any], str]]:
    """(row of MMSU's or AIR-Bench's form, the choice that was given, "" for none)."""
    rng = random.Random(6)
    for n in range(num):
        choices = [some(rng, 3).strip() or "x" for _ in range(rng.choice([2, 4]))]
        row: dict[str, Any] = {f"choice_{letter}": c for letter, c in zip("abcd", choices)}  # noqa: B905
        row |= {"id": f"q{n}", "uniq_id": n, "question": "?", "answer_gt": rng.choice(choices), "path": "a.wav"}
        row |= {"category": rng.choice("PR"), "sub-category": rng.choice("LS"), "audio_path": "/audio/a.wav"}
        row |= {"task_name": rng.choice(["Sound_AQA", "Music_AQA"]), "dataset_name": rng.choice(["x", "y"])}
        yield row, rng.choice([*choices, ""]) if n % 10 == 0 else rng.choice(choices)


# --- ours -------------------------------------------------------------------------------------------------------------


def sentences(text: str) -> list[str]:
    """Stands in for nltk's sentences, here and there."""
    return [part for part in re.split(r"[.!?]\s", text) if part]


def or_none(read: Callable[..., float], *arguments: Any) -> float | None:
    try:
        return read(*arguments)
    except ValueError:
        return None


def given(prediction: str, answer: str, choices: list[str]) -> dict[str, Any]:
    return {"answer_prediction": prediction, "answer": answer, "choices": choices}


def counts(form: Callable[[dict[str, Any]], dict[str, Any]], groups: tuple[str, ...], blank: bool) -> dict[str, Any]:
    """[right, all] by group. blank: whether questions without an answer count."""
    found: Counter[str] = Counter()
    for row, said in lettered():
        if said or blank:
            asked = form(row)
            key = " ".join(str(asked[name]) for name in groups)
            record = given(said or None, asked["answer"], asked["choices"]) | {"rule": asked["rule"]}  # type: ignore[arg-type]
            found[f"{key} right"] += right(record)
            found[f"{key} all"] += 1
    return dict(sorted(found.items()))


def ours(num: int = NUM) -> dict[str, Any]:
    """What relisten gives to the first cases. Counts are of all cases, so they come with all only."""
    whole = (
        {
            "mmsu": counts(mmsu.in_mmars_form, ("category", "sub-category"), blank=True),
            "air-bench": counts(air_bench.in_mmars_form, ("sub-category",), blank=False),
        }
        if num == NUM
        else {}
    )
    return {
        "words": blocks(word_match(*case) for case in words(num)),
        "replies": blocks(or_none(judges.read_rubric, reply, {"rubric": rubric}) for rubric, reply in replies(num)),
        "judged": blocks(
            judges.trimmed(scores) if right(given(*case)) else 0.0 for *case, scores in judged(num)
        ),
        "followed": blocks(instructions.followed(*case) for case in followed(num)),
        "graded": blocks(or_none(judges.read_open, text, {}) for text in graded(num)),
        **whole,
    }  # fmt: skip


# --- theirs -----------------------------------------------------------------------------------------------------------


def module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = found
    spec.loader.exec_module(found)
    return found


def functions(path: Path) -> SimpleNamespace:
    """The functions of a script, without what it imports and starts."""
    import numpy

    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names: dict[str, Any] = {"re": re, "np": numpy, "sent_tokenize": sentences}
    exec(compile(tree, str(path), "exec"), names)
    return SimpleNamespace(**names)


def theirs(folder: Path) -> dict[str, Any]:
    """What the published scripts give to every case."""
    os.environ.setdefault("OPENAI_API_KEY", "none")
    logging.disable()
    rubrics = module(folder / "MMAR/code/evaluation_rubrics.py")
    pro = functions(folder / "MMAUPro/evaluate_mmau_pro_comprehensive.py")

    def grade(rubric: list[dict[str, Any]], reply: str) -> float | None:
        try:
            return float(rubrics.validate_and_score("", reply, rubric))
        except Exception:  # it asks again after any
            return None

    async def middle(prediction: str, answer: str, choices: list[str], scores: list[float]) -> float:
        left = iter(scores)

        async def call(*_: Any) -> tuple[float, str]:
            return next(left), ""

        done = await rubrics.evaluate_one_record(
            SimpleNamespace(call=call), contextlib.AsyncExitStack(), "", "?", answer, "", [], choices,
            [{"name": "n", "scoring_point": "s", "choices": [0, 1]}], "", prediction,
        )  # fmt: skip
        return float(done.score)

    async def every() -> list[float]:
        return [await middle(*case) for case in judged()]

    def follow(text: str, name: str, arguments: dict[str, Any], prompt: str) -> bool:
        sample = {"task_identifier": name, "kwargs": arguments, "prompt_transcription": prompt}
        return bool(pro.evaluate_aif_sample(text, sample))

    return {
        "words": blocks(rubrics.string_match(a, p, c) for p, a, c in words()),
        "replies": blocks(grade(*case) for case in replies()),
        "judged": blocks(asyncio.run(every())),
        "followed": blocks(follow(*case) for case in followed()),
        "graded": blocks(float(pro.extract_scores_from_evaluation(text)["overall"]) / 5 for text in graded()),
        "mmsu": mmsu_counts(folder / "MMSU/mmsu_evaluation.py"),
        "air-bench": air_counts(folder / "AIR-Bench/score_foundation.py"),
    }


def mmsu_counts(script: Path) -> dict[str, int]:
    """The script gives shares only, so each group is given to it alone."""
    rule, groups = module(script).calculate_accuracy_per_task_and_category, {}  # type: ignore[var-annotated]
    for row, said in lettered():
        groups.setdefault(f"{row['category']} {row['sub-category']}", []).append(
            row | {"response": mmsu.as_letter(row, said)}
        )
    found = {}
    for name, rows in groups.items():
        with contextlib.redirect_stdout(io.StringIO()):
            _, _, share, num = rule(rows)
        found |= {f"{name} right": round(share * num), f"{name} all": num}
    return dict(sorted(found.items()))


def air_counts(script: Path) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        rows = [json.dumps(row | {"response": mmsu.as_letter(row, said)}) + "\n" for row, said in lettered()]
        (Path(folder) / "Foundation_result_modelx.jsonl").write_text("".join(rows))
        command = [sys.executable, script]
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    found = {}
    for name, num, right_ones in re.findall(r"^(\w+): Sum=(\d+), correct=(\d+)", said, re.MULTILINE):
        found |= {f"{name} right": int(right_ones), f"{name} all": int(num)}
    return dict(sorted(found.items()))


def count_sentences_alike() -> None:
    """Both count sentences with `sentences`, because nltk's model cannot be had everywhere."""
    for name, (_, rule) in list(instructions._COUNTED.items()):
        if "Sentences" in name:
            instructions._COUNTED[name] = (lambda text, _: len(sentences(text)), rule)


def differing(a: Any, b: Any) -> list[Any]:
    """Which hundreds of cases, or which groups, two results differ in."""
    if isinstance(a, dict):
        return [name for name in {*a, *b} if a.get(name) != b.get(name)]
    return [n for n, (one, other) in enumerate(zip(a, b, strict=True)) if one != other]


def main(folder: Path) -> None:
    """Write what the scripts give, and print whether it is what relisten gives."""
    count_sentences_alike()
    published, mine = theirs(folder), ours()
    for name, result in published.items():
        different = differing(result, mine[name])
        print(f"{name}: {f'differs in {different[:10]}' if different else 'equal'}")
    FIXTURE.write_text(json.dumps(published, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
