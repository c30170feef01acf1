"""How people word the questions that nano is asked about recordings of their own.

{0} and {1} stand for names of sounds. Training uses WORDINGS; HELDOUT says the same in other words and is only used to
judge. The plainest wordings are those of offline/phrases.py.
"""

from __future__ import annotations

from relisten.data.offline.phrases import QUESTIONS

_MORE: dict[str, tuple[str, ...]] = {
    "after": ("Which sound comes after the {0}?", "What do you hear after the {0}?", "What comes next after the {0}?"),
    "before": ("Which sound comes before the {0}?", "What do you hear before the {0}?", "What was before the {0}?"),
    "between": ("Which sound lies between the {0} and the {1}?",),
    "count": (
        "How often is the {0} heard?", "How many times do you hear the {0}?",
        "How many times does the {0} come?",
    ),
    "first": ("Which sound comes first?", "What comes first?", "What do you hear first?", "Which sound is the first?"),
    "last": ("Which sound comes last?", "What comes last?", "What do you hear last?", "Which sound is the last?"),
    "word": ("What word do you hear?", "Which word do you hear?", "What is said?", "Which word is it?"),
    "word after": (
        "Which word do you hear after the {0}?", "What is said after the {0}?", "Which word comes after the {0}?",
    ),
    "after word": (
        "What came right after the word {0}?", "Which sound comes after the word {0}?",
        "What do you hear after the word {0}?", "What follows the word {0}?", "What comes next after {0} is said?",
    ),
    "pitch": ("Is the {0} high or low?",),
    "direction": ("Does the {0} go up or down?", "Does the {0} rise or fall?", "Is the {0} rising or falling?"),
    "count of": (
        "How many {0}s are heard?", "How many {0}s do you hear in a row?", "How many {0}s are there?",
        "How many {0}s do you hear?",
    ),
    "rate": ("Is the {0} fast or slow?",),
    "length": ("Is the {0} long or short?",),
}  # fmt: skip

WORDINGS: dict[str, tuple[str, ...]] = {
    key: (*QUESTIONS.get(key, ())[:6], *_MORE.get(key, ())) for key in dict.fromkeys([*QUESTIONS, *_MORE])
}
"""The wordings of training. nano's first world uses the first one or two of each kind."""

HELDOUT: dict[str, tuple[str, ...]] = {
    "after": ("What sound do you hear right after the {0}?", "What is the sound that comes after the {0}?"),
    "before": ("What sound do you hear right before the {0}?", "What is the sound that comes before the {0}?"),
    "between": ("What do you hear between the {0} and the {1}?",),
    "count": ("How many times is the {0} there?", "How often do you hear the {0}?"),
    "first": ("What is the first sound?", "Which of these comes first?"),
    "last": ("What is the last sound?", "Which of these comes last?"),
    "longest": ("What lasts longest?",),
    "longer": ("Which lasts longer, the one before the {0} or the one after it?",),
    "louder": ("Which of the two sounds before and after the {0} is louder?",),
    "word": ("What does the voice say here?", "Which word does the voice say?"),
    "word after": ("What word does the voice say after the {0}?", "What do you hear the voice say after the {0}?"),
    "after word": ("What is heard right after the word {0}?", "Which sound follows when the word {0} is said?"),
    "when": ("In which part is the {0}?",),
    "pitch": ("How high or low is the {0}?",),
    "direction": ("Does the {0} rise, or does it fall?",),
    "count of": ("How many {0}s are in the recording?", "How many {0}s come?",),
    "rate": ("How fast does the {0} go?",),
    "length": ("How long does the {0} go on?",),
}  # fmt: skip
