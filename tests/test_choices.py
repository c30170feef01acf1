"""How answers are read: a table of answers as models write them, with the choice that each declares, or none."""

from __future__ import annotations

import random
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relisten.choices import LONGEST, read_choice
from relisten.same_text import is_right

ANIMALS = ("dog", "cat", "cow", "a red cow")
PLACES = ("in the kitchen", "in the garden", "on the stairs")
NUMBERS = ("20", "21", "2", "12")
TALK = ("Man", "Woman", "Both speakers")
YES = ("Yes", "No")
NOTES = ("C", "D", "G", "A")
KEYS = ("C major", "A minor", "F# minor", "B♭ major")
TIMES = ("10:05", "10:15", "0:15")
GUITARS = ("electric guitar", "guitar", "bass guitar", "piano")
JA = ("犬", "猫", "牛")
KO = ("개", "고양이", "소")
DE = ("Hund", "Katze", "Kuh")
FR = ("chien", "chat", "vache")
ES = ("perro", "gato", "vaca")
ZH = ("狗", "猫", "牛")
LABELLED = ("(A) bell", "(B) horn", "(C) drum")
DECOMPOSED = unicodedata.normalize("NFD", "Löwe")

TABLE: list[tuple[str, tuple[str, ...], str | None]] = [
    # the text itself, as it may be dressed
    ("cat", ANIMALS, "cat"), (" CAT. ", ANIMALS, "cat"), ("“cat”", ANIMALS, "cat"), ("'Cat'!", ANIMALS, "cat"),
    ("**cat**", ANIMALS, "cat"), ("`cat`", ANIMALS, "cat"), ("__cat__", ANIMALS, "cat"), ("*Cat*.", ANIMALS, "cat"),
    ("$\\text{cat}$", ANIMALS, "cat"), ("A red cow", ANIMALS, "a red cow"), ("cat\n", ANIMALS, "cat"),
    ("in the garden.", PLACES, "in the garden"), ("Woman", TALK, "Woman"), ("man", TALK, "Man"),
    # to the letter before anything else
    ("Cm7", ("CM7", "Cm7"), "Cm7"), ("CM7", ("CM7", "Cm7"), "CM7"), ("x", ("-x", "x"), "x"), ("5", ("$5", "5"), "5"),
    ("C", ("C*", "C"), "C"), ("x2", ("x²", "x2"), "x2"), ("*", ("*", "**"), "*"), ("as", ("AS", "as"), "as"),
    *((said, ("Cm7", "CM7", "G7"), "CM7") for said in ("B", "CM7.", "The answer is CM7.", "(B) CM7", "**CM7**")),
    ("cm7", ("Cm7", "CM7", "G7"), None), ("B", ("x²", "x2"), "x2"), ("Löwe.", ("Löwe", "löwe"), "Löwe"),
    # labels
    ("B", ANIMALS, "cat"), ("b", ANIMALS, "cat"), ("B.", ANIMALS, "cat"), ("(B)", ANIMALS, "cat"),
    ("[B]", ANIMALS, "cat"), ("**B**", ANIMALS, "cat"), ("**B.** cat", ANIMALS, "cat"), ("B) cat", ANIMALS, "cat"),
    ("B: cat", ANIMALS, "cat"), ("B - cat", ANIMALS, "cat"), ("(b) the cat", ANIMALS, "cat"), ("<B>", ANIMALS, "cat"),
    ("{B}", ANIMALS, "cat"), ("\\boxed{B}", ANIMALS, "cat"), ("$\\boxed{\\text{B}}$", ANIMALS, "cat"),
    ("\\boxed{cat}", ANIMALS, "cat"), ("Option B", ANIMALS, "cat"), ("option b.", ANIMALS, "cat"),
    ("Choice (C)", ANIMALS, "cow"), ("Ｂ", ANIMALS, "cat"), ("（Ｂ）", ANIMALS, "cat"), ("B. dog", ANIMALS, None),
    ("(A) cat", ANIMALS, None), ("A and C", ANIMALS, None), ("A or B", ANIMALS, None), ("A, B", ANIMALS, None),
    ("E", ANIMALS, None), ("B", LABELLED, "(B) horn"), ("horn", LABELLED, "(B) horn"),
    ("B. horn", LABELLED, "(B) horn"), ("A. horn", LABELLED, None),
    # declarations
    ("The answer is B", ANIMALS, "cat"), ("The answer is B.", ANIMALS, "cat"), ("The answer is (B).", ANIMALS, "cat"),
    ("The correct answer is B. The dog is heard later.", ANIMALS, "cat"),
    ("The answer is B because the dog stops.", ANIMALS, "cat"), ("The answer is B: cat.", ANIMALS, "cat"),
    ("Answer: B", ANIMALS, "cat"), ("Answer: cat", ANIMALS, "cat"), ("ANSWER: **B**", ANIMALS, "cat"),
    ("Final answer: B", ANIMALS, "cat"), ("**Final Answer:** cat", ANIMALS, "cat"),
    ("Option B is correct", ANIMALS, "cat"), ("Option B is correct, since a cat meows.", ANIMALS, "cat"),
    ("B is the right answer.", ANIMALS, "cat"), ("(B) is correct", ANIMALS, "cat"), ("I choose B", ANIMALS, "cat"),
    ("I would go with B.", ANIMALS, "cat"), ("I'd say it is the cat.", ANIMALS, "cat"),
    ("My answer is option C.", ANIMALS, "cow"), ("The best choice is the cat.", ANIMALS, "cat"),
    ("So it is the cat.", ANIMALS, "cat"), ("The dog barks first. The answer is the cat.", ANIMALS, "cat"),
    ("I first heard a dog and a cow, so the answer is: cat", ANIMALS, "cat"),
    ("The answer is A. Wait, actually the answer is B.", ANIMALS, "cat"),
    ("The answer is A. The answer is B.", ANIMALS, None), ("The answer is not B", ANIMALS, None),
    ("The answer is A dog", ANIMALS, "dog"), ("The answer is unclear.", ANIMALS, None),
    ("The answer is B, the dog.", ANIMALS, None), ("The correct option is the second option.", ANIMALS, "cat"),
    # places
    ("2", ANIMALS, "cat"), ("(3)", ANIMALS, "cow"), ("option 2", ANIMALS, "cat"),
    ("The second option", ANIMALS, "cat"), ("2.", ANIMALS, "cat"), ("7", ANIMALS, None),
    # mentions, negations, questions
    ("It is a cat.", ANIMALS, "cat"), ("I hear the cat twice.", ANIMALS, "cat"),
    ("It sounds like a red cow", ANIMALS, "a red cow"), ("Not the dog; it is a cat", ANIMALS, "cat"),
    ("It's a cat, not a dog.", ANIMALS, "cat"), ("It is a cat not a dog", ANIMALS, "cat"),
    ("It isn't a dog but a cat", ANIMALS, "cat"), ("It is not a cat.", ANIMALS, None),
    ("A cat rather than a dog.", ANIMALS, "cat"), ("The dog is wrong; the cat is heard", ANIMALS, "cat"),
    ("There is no dog and no cat", ANIMALS, None), ("Is it a dog? It is a cat.", ANIMALS, "cat"),
    ("A cat?", ANIMALS, None), ("dog or cat", ANIMALS, None), ("cow or a red cow", ANIMALS, None),
    ("Neither the dog nor the cat", ANIMALS, None), ("It is the cat, no doubt", ANIMALS, "cat"),
    ("catalogue", ANIMALS, None), ("The cat and the dog", ANIMALS, None), ("a horse", ANIMALS, None),
    ("I cannot tell.", ANIMALS, None), ("", ANIMALS, None), ("No doubt, a cat.", ANIMALS, "cat"),
    ("The sound comes from in the garden", PLACES, "in the garden"),
    ("Both speakers are right", TALK, "Both speakers"), ("A woman speaks", TALK, "Woman"),
    # numbers
    ("twenty-one", NUMBERS, "21"), ("twenty one", NUMBERS, "21"), ("Twenty", NUMBERS, "20"),
    ("about 20 times", NUMBERS, "20"), ("20.5", NUMBERS, None), ("20-25", NUMBERS, None), ("1:20", NUMBERS, None),
    ("120", NUMBERS, None), ("There are two.", NUMBERS, "2"), ("twelve knocks", NUMBERS, "12"), ("3", NUMBERS, None),
    ("three knocks", ("2 knocks", "3 knocks"), "3 knocks"), ("The first one is short", ("1", "2"), None),
    ("2 seconds", ("2 seconds", "20 seconds"), "2 seconds"), ("1.2 seconds", ("2 seconds", "20 seconds"), None),
    # yes and no, notes
    ("Yes, it is.", YES, "Yes"), ("No.", YES, "No"), ("No, there is no dog", YES, "No"),
    ("Yes, but not a dog", YES, "Yes"), ("There is no difference", YES, None), ("No dog is heard", YES, None),
    ("The answer is no.", YES, "No"), ("d.", NOTES, "D"), ("B", NOTES, None), ("The note is G.", NOTES, "G"),
    ("I'd not know", NOTES, None), ("A dog barks", NOTES, None), ("C major", ("C major", "C minor"), "C major"),
    ("A", ("C major", "G major"), None),
    # other languages
    ("答案是B", ANIMALS, "cat"), ("答案：B", ANIMALS, "cat"), ("正确答案是 (B)。", ANIMALS, "cat"),
    ("我选择B", ANIMALS, "cat"),
    ("选B", ANIMALS, "cat"), ("我听到的是猫的声音。", ZH, "猫"), ("不是狗，是猫", ZH, "猫"), ("答案是猫。", ZH, "猫"),
    ("狗和猫", ZH, None),
    ("这不是猫", ZH, None), ("第二个选项", ZH, "猫"), ("正解はBです", ZH, "猫"),
    ("犬ではなく猫です", ("犬", "猫"), "猫"),
    ("정답은 B입니다", ANIMALS, "cat"), ("Die richtige Antwort ist B.", ANIMALS, "cat"), ("Antwort: B", ANIMALS, "cat"),
    ("Es ist kein Hund, sondern eine Katze", ("Hund", "Katze"), "Katze"), ("La réponse est B.", ANIMALS, "cat"),
    ("La bonne réponse : B", ANIMALS, "cat"), ("La respuesta correcta es B.", ANIMALS, "cat"),
    ("La risposta è B", ANIMALS, "cat"), ("A resposta é B.", ANIMALS, "cat"), ("Правильный ответ: B", ANIMALS, "cat"),
    ("Ответ — B", ANIMALS, "cat"), (DECOMPOSED, ("Löwe", "Möwe"), "Löwe"),
    ("Es ist ein Löwe", (DECOMPOSED, "Möwe"), DECOMPOSED), ("STRASSE", ("Straße", "Weg"), "Straße"),
    ("C'est le chat, pas le chien.", ("chien", "chat"), "chat"),
    # more, found by trying to break the reader
    ("The correct answer is: **B) cat**", ANIMALS, "cat"),
    ("**Answer: B**\n\nThe dog is heard at the end.", ANIMALS, "cat"),
    ("Based on the audio, it is most likely a cat.", ANIMALS, "cat"),
    ("The answer is either a dog or a cat", ANIMALS, None), ("I think it's B", ANIMALS, "cat"),
    ("It's B.", ANIMALS, "cat"), ("The answer should be B", ANIMALS, "cat"), ("Select option B.", ANIMALS, "cat"),
    ("Ans: B", ANIMALS, "cat"), ("Answer = B", ANIMALS, "cat"), ("#### B", ANIMALS, "cat"), ("- B", ANIMALS, "cat"),
    ("Correct: B", ANIMALS, "cat"), ("A is wrong. B is correct.", ANIMALS, "cat"),
    ("A. dog is incorrect. B. cat is correct.", ANIMALS, None),
    ("A) dog\nB) cat\nC) cow\n\nThe answer is C.", ANIMALS, "cow"), ('{"answer": "B"}', ANIMALS, "cat"),
    ('"B"', ANIMALS, "cat"), ("B]", ANIMALS, "cat"), ("Both A and B", ANIMALS, None),
    ("All of the above", ANIMALS, None), ("There is no cat, only a dog", ANIMALS, "dog"), ("cats", ANIMALS, None),
    ("The answer is definitely B", ANIMALS, "cat"), ("The correct answer is not A but B.", ANIMALS, "cat"),
    ("The answer would be the cat, not the dog", ANIMALS, "cat"), ("B, because the cat meows", ANIMALS, "cat"),
    ("A because it barks", ANIMALS, "dog"), ("A loud noise", ANIMALS, None), ("Answer: (b) the dog", ANIMALS, None),
    ("cat (B)", ANIMALS, "cat"), ("cat (A)", ANIMALS, None), ("dog / cat", ANIMALS, None),
    ("3:45", ("3:45", "4:45"), "3:45"), ("at 3:45 pm", ("3:45", "4:45"), "3:45"), ("5", ("0.5", "5"), "5"),
    ("0.5", ("0.5", "5"), "0.5"), ("There is one dog and two cats", ("1", "2"), None), ("only one", ("1", "2"), "1"),
    ("one hundred", ("1", "100"), None), ("2nd", ("2", "3"), None), ("unhappy", ("happy", "unhappy"), "unhappy"),
    ("The man is not happy", ("happy", "not happy"), "not happy"),
    ("He is not happy, he is sad", ("happy", "sad"), "sad"), ("not female", ("male", "female"), None),
    ("That is false.", ("True", "False"), None), ("in A minor", ("A minor", "A major"), "A minor"),
    ("It's F#.", ("F", "F#"), "F#"), ("II", ("I", "II", "III"), "II"),
    ("Speaker B spoke after Speaker A", ("Speaker A", "Speaker B"), None), ("答案选C", ANIMALS, "cow"),
    ("选项B正确", ANIMALS, "cat"), ("因此，答案是 (C)", ANIMALS, "cow"), ("B 是正确的", ANIMALS, "cat"),
    ("没有狗叫声，只有猫叫声", ("狗叫声", "猫叫声"), "猫叫声"), ("是狗还是猫？是猫。", ZH, "猫"),
    ("声音是猫而不是狗", ZH, "猫"), ("犬ではありません。猫です。", ("犬", "猫"), "猫"),
    ("개가 아니라 고양이입니다", ("개", "고양이"), "고양이"), ("Je choisis B", ANIMALS, "cat"),
    ("الإجابة هي B", ANIMALS, "cat"), ("Non è un cane, è un gatto", ("cane", "gatto"), "gatto"),
    ("Это не собака, а кошка", ("собака", "кошка"), "кошка"),
    # denials, conditions, thoughts, tags and JSON; numbers with units, keys, times
    ("<answer>B</answer>", ANIMALS, "cat"), ("<answer> (C) </answer>", ANIMALS, "cow"),
    ("<think>The dog barks. The cow moos.</think>\n<answer>B</answer>", ANIMALS, "cat"),
    ("<think>It could be dog.</think> B", ANIMALS, "cat"), ("{\"choice\": \"B\"}", ANIMALS, "cat"),
    ("{\"answer\": \"B\", \"reason\": \"no dog barks\"}", ANIMALS, "cat"),
    ("{\"final_answer\": \"C\"}", ANIMALS, "cow"), ("### Answer\nB", ANIMALS, "cat"),
    ("$$\\boxed{\\text{(B) cat}}$$", ANIMALS, "cat"), ("The answer is $B$.", ANIMALS, "cat"),
    ("Looking at the options: A) dog - no barking. B) cat - meowing is clear. C) cow - no. Answer: B", ANIMALS, "cat"),
    ("Option A is incorrect. Option C is incorrect. Therefore, Option B.", ANIMALS, "cat"),
    ("Option A is not correct.", ANIMALS, None), ("A is not correct.", ANIMALS, None),
    ("A is not the answer.", ANIMALS, None), ("The answer cannot be A.", ANIMALS, None),
    ("I don't think the answer is A.", ANIMALS, None), ("I doubt that it is a dog.", ANIMALS, None),
    ("It's definitely not B.", ANIMALS, None), ("Not A, but B.", ANIMALS, "cat"),
    ("The answer is certainly not the dog.", ANIMALS, None),
    ("The correct answer is neither A nor B, but C.", ANIMALS, "cow"), ("A/B", ANIMALS, None),
    ("B or C, probably B", ANIMALS, None), ("The answer is A. No, wait: it's B.", ANIMALS, "cat"),
    ("Answer: A\n\nCorrection: B", ANIMALS, "cat"), ("Sorry, the answer is B, not A.", ANIMALS, "cat"),
    ("B, not A", ANIMALS, "cat"), ("If the answer is A, we would hear barking.", ANIMALS, None),
    ("The answer would be A if it barked, but it meows.", ANIMALS, None),
    ("It's unclear whether this is a cat.", ANIMALS, None), ("cat, I guess", ANIMALS, "cat"),
    ("The sound is of a cat; a dog would sound different.", ANIMALS, None),
    ("First the dog, then the cat. Answer: dog", ANIMALS, "dog"), ("I'd pick B", ANIMALS, "cat"),
    ("My pick is B", ANIMALS, "cat"), ("Choose B", ANIMALS, "cat"), ("Go with B.", ANIMALS, "cat"),
    ("I'm going with B", ANIMALS, "cat"), ("Let's go with B", ANIMALS, "cat"),
    ("I believe the answer is B", ANIMALS, "cat"), ("B!", ANIMALS, "cat"), ("b)", ANIMALS, "cat"),
    ("B\n\nExplanation: the dog is quieter.", ANIMALS, "cat"), ("B\nA dog barks.", ANIMALS, "cat"),
    ("B. The cat meows after the dog barks.", ANIMALS, "cat"), ("The letter is B", ANIMALS, "cat"),
    ("Answer choice B", ANIMALS, "cat"), ("2) cat", ANIMALS, "cat"), ("2. dog", ANIMALS, None),
    ("#2", ANIMALS, "cat"), ("Number 2", ANIMALS, "cat"), ("The third one.", ANIMALS, "cow"),
    ("The former.", ANIMALS, None), ("A dog.", ANIMALS, "dog"), ("A is heard", ANIMALS, "dog"),
    ("As an AI, I cannot listen to audio.", ANIMALS, None),
    ("Can you repeat the question about the cat?", ANIMALS, None), ("The answer is (C) drum.", LABELLED, "(C) drum"),
    ("Yes", YES, "Yes"), ("A", YES, "Yes"), ("Yes or no?", YES, None), ("Answer: No, because it is quiet", YES, "No"),
    ("是的", ("是", "否"), "是"), ("是的，有狗叫。", ("是", "不是"), "是"),
    ("はい、そうです。", ("はい", "いいえ"), "はい"), ("Ja, das stimmt.", ("Ja", "Nein"), "Ja"),
    ("True.", ("True", "False"), "True"), ("It happens 12 times.", NUMBERS, "12"), ("~20", NUMBERS, "20"),
    ("more than 20", NUMBERS, None), ("less than 12", NUMBERS, None), ("20 (twenty)", NUMBERS, "20"),
    ("-2", NUMBERS, None), ("1,200", ("1,200", "200"), "1,200"), ("the answer is 20.5", NUMBERS, None),
    ("The answer is two.", NUMBERS, "2"), ("about 1.5 seconds", ("1.5 s", "15 s", "5 s"), None),
    ("30 Hz", ("3 Hz", "30 Hz", "300 Hz"), "30 Hz"), ("30Hz", ("3 Hz", "30 Hz", "300 Hz"), "30 Hz"),
    ("10:15", TIMES, "10:15"), ("at 0:15", TIMES, "0:15"), ("0:15 s", TIMES, "0:15"), ("10:15 am", TIMES, "10:15"),
    ("110:15", TIMES, None), ("10:15:30", TIMES, None), ("The tempo is 120 bpm.", ("120 BPM", "20 BPM"), "120 BPM"),
    ("4/4", ("4", "3"), None), ("A minor", KEYS, "A minor"), ("The key is A minor.", KEYS, "A minor"),
    ("F# minor", KEYS, "F# minor"), ("F♯ minor", KEYS, "F# minor"), ("F sharp minor", KEYS, "F# minor"),
    ("Bb major", KEYS, "B♭ major"), ("B♭ major", KEYS, "B♭ major"),
    ("It's in C# major", ("C major", "C# major"), "C# major"), ("C", KEYS, None), ("C minor", ("C", "D"), None),
    ("C-sharp minor", ("C minor", "C-sharp minor"), "C-sharp minor"), ("The answer is C major", KEYS, "C major"),
    ("The answer is C", ("C", "D", "E"), "C"),
    ("It was Dr. Smith who spoke.", ("Dr. Smith", "Mr. Jones", "John", "John Smith"), "Dr. Smith"),
    ("The answer is John Smith", ("Dr. Smith", "Mr. Jones", "John", "John Smith"), "John Smith"),
    ("The speaker is not joking.", ("The speaker is joking", "The speaker is serious", "The speaker is angry"), None),
    ("electric guitar", GUITARS, "electric guitar"),
    ("The instrument is an electric guitar.", GUITARS, "electric guitar"), ("a guitar", GUITARS, "guitar"),
    ("bass", GUITARS, None), ("An acoustic guitar", GUITARS, "guitar"), ("guitar and piano", GUITARS, None),
    ("Electric Guitar (A)", GUITARS, "electric guitar"),
    ("The male speaker, not the female one.", ("male", "female"), "male"),
    ("She is sad, not angry.", ("happy", "sad", "angry", "neutral"), "sad"),
    ("sadly happy", ("happy", "sad", "angry", "neutral"), "happy"),
    ("There is no change.", ("increase", "decrease", "no change"), "no change"),
    ("The volume does not decrease", ("increase", "decrease", "no change"), None),
    ("none", ("All of the above", "None of the above", "rain", "wind"), None), ("Die Antwort lautet: B", DE, "Katze"),
    ("Ich glaube, es ist die Katze.", DE, "Katze"), ("Option B ist falsch.", DE, None), ("Kein Hund", DE, None),
    ("Lösung: B", DE, "Katze"), ("B ist nicht richtig", DE, None), ("La bonne réponse est B.", FR, "chat"),
    ("Réponse : B", FR, "chat"), ("C'est le chat.", FR, "chat"), ("château", FR, None),
    ("No es un perro sino un gato", ES, "gato"), ("La opción correcta es B", ES, "gato"),
    ("Creo que es el gato", ES, "gato"), ("A veces ladra", ES, None), ("最终答案：B", ANIMALS, "cat"),
    ("不选A", ANIMALS, None), ("不应该选A，应该选B", ANIMALS, "cat"), ("不是猫也不是狗", ZH, None),
    ("B。", ANIMALS, "cat"), ("A不正确", ANIMALS, None), ("答案选择B，因为没有狗。", ANIMALS, "cat"),
    ("男声", ("男声", "女声"), "男声"), ("综上所述，答案是：**B**", ANIMALS, "cat"), ("犬ではない", JA, None),
    ("犬の声は聞こえません。", JA, None), ("選択肢B", ANIMALS, "cat"), ("答えはAではなくBです。", ANIMALS, "cat"),
    ("答えはAではありません。", ANIMALS, None), ("犬か猫", JA, None), ("개가 아닙니다.", KO, None),
    ("고양이 소리가 들립니다.", KO, "고양이"), ("개 소리는 들리지 않습니다.", KO, None),
    ("정답은 A가 아니라 B입니다.", ANIMALS, "cat"), ("정답은 A가 아닙니다.", ANIMALS, None),
    ("If I had to choose, I'd say B.", ANIMALS, "cat"), ("Whether dog or cat, hard to say", ANIMALS, None),
    ("The answer is A if you ignore the cat.", ANIMALS, None), ("Without doubt the answer is cat", ANIMALS, "cat"),
    ("B seems right", ANIMALS, "cat"), ("I don't think B is correct.", ANIMALS, None),
    ("It is incorrect to say B is correct.", ANIMALS, None),
    ("Options A and B are both incorrect, so C.", ANIMALS, "cow"), ("So, C.", ANIMALS, "cow"),
    ("Therefore C", ANIMALS, "cow"), ("Thus C is correct", ANIMALS, "cow"), ("Answer: N/A", ANIMALS, None),
    ("Answers: A; C", ANIMALS, None), ("The answer is 'cat'.", ANIMALS, "cat"), ("> B", ANIMALS, "cat"),
    ("B|", ANIMALS, None), ("I hear a cat meowing, hence not a dog", ANIMALS, "cat"),
    ("Definitely not a cow. Dog!", ANIMALS, "dog"),
    ("The dog isn't heard, and the cat isn't either; the cow is.", ANIMALS, "cow"),
    ("dog (10%), cat (90%)", ANIMALS, None), ("dogcat", ANIMALS, None),
    ("I would say a dog is unlikely.", ANIMALS, None), ("I would say that it's not a dog.", ANIMALS, None),
    ("The correct answer: it's a cat!", ANIMALS, "cat"), ("The answer is dog.\n\nFinal answer: cat", ANIMALS, "cat"),
    ("answer: a dog", ANIMALS, "dog"), ("a", ANIMALS, "dog"), ("C cow", ANIMALS, "cow"),
    ("It's option A.", ANIMALS, "dog"), ("This is a B movie", ANIMALS, None),
    ("The second speaker", ("Speaker 1", "Speaker 2"), None), ("3", ("Two", "Three", "Four"), "Three"),
    ("one hundred and twenty", ("100", "120", "20"), None), ("2 seconds", ("first", "second"), None),
    ("right", ("left", "right"), "right"), ("The correct answer is right.", ("left", "right"), "right"),
    ("not correct", ("Correct", "Incorrect"), None), ("The dog is absent", ("present", "absent"), "absent"),
    ("C++", ("C", "C++"), "C++"), ("The order is cat, dog", ("dog, cat", "cat, dog"), "cat, dog"),
    ("There isn't a dog.", ("dog", "no dog"), None), ("A和B都对", ANIMALS, None), ("A、B", ANIMALS, None),
    ("A或B", ANIMALS, None), ("我不认为答案是A", ANIMALS, None), ("如果是狗，答案是A", ANIMALS, None),
    ("B才是正确答案", ANIMALS, "cat"), ("正确的是B", ANIMALS, "cat"), ("应为B", ANIMALS, "cat"),
    ("犬じゃなくて猫", JA, "猫"), ("答えはAかBです", ANIMALS, None), ("A라고 생각하지 않습니다", ANIMALS, None),
    ("Ich glaube nicht, dass es ein Hund ist.", DE, None), ("Nein, das ist kein Hund.", DE, None),
    ("Richtig ist B.", DE, "Katze"), ("A und B", DE, None), ("Je dirais B", FR, "chat"),
    ("no creo que sea un perro", ES, None), ("sans doute le chat", FR, "chat"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "choices", "meant"), TABLE, ids=[f"{i}-{row[0][:40]}" for i, row in enumerate(TABLE)])
def test_the_choice_that_an_answer_declares(said: str, choices: tuple[str, ...], meant: str | None) -> None:
    assert read_choice(said, choices) == meant


def test_no_answer_declares_nothing() -> None:
    assert read_choice(None, ANIMALS) is None and read_choice("cat", ()) is None


@pytest.mark.parametrize("choices", [ANIMALS, PLACES, NUMBERS, TALK, YES, NOTES, ZH, LABELLED])
def test_every_choice_is_read_as_itself(choices: tuple[str, ...]) -> None:
    for choice in choices:
        assert read_choice(choice, choices) == choice == read_choice(f"The answer is {choice}.", choices)


def test_the_order_of_choices_decides_nothing_but_what_letters_mean() -> None:
    rng = random.Random(0)
    for said, choices, meant in TABLE:
        if meant is None or choices in (NOTES, YES) or (meant.casefold() not in said.casefold()):
            continue
        if re.search(r"\b[ABCb]\b(?! (?:red|dog|cat))|second|2", said):  # letters and places depend on the order
            continue
        shuffled = tuple(rng.sample(choices, len(choices)))
        assert read_choice(said, shuffled) == meant, (said, shuffled)


def test_a_choice_offered_twice_is_one_choice() -> None:
    assert read_choice("it is a cow", ["cow", "cow", "bell"]) == "cow" == read_choice("B", ["cow", "cow", "bell"])


def test_a_long_text_is_read_at_its_end_and_only_for_what_it_declares() -> None:
    thought = "The dog barks. " * (LONGEST // 10)
    assert read_choice(thought + "The answer is B.", ANIMALS) == "cat"
    assert read_choice(thought + "It is a cat.", ANIMALS) is None


@settings(max_examples=60, deadline=None)
@given(st.text(), st.lists(st.text(), max_size=6))
def test_reading_never_raises_and_gives_a_choice_or_none(said: str, choices: list[str]) -> None:
    assert read_choice(said, choices) in (*choices, None)


HOSTILE = [
    "the answer is ",
    "<answer>",
    "if ",
    "A is ",
    "</think>",
    "more than 2 ",
    "not ",
    "(",
    "\\boxed{",
    "A. ",
    "one of the ",
    "cat ",
    "选",
    "\n",
    "\\text{",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_repetitions_end_at_once(piece: str) -> None:
    """Each of these took minutes with patterns that look back over the text again and again."""
    assert read_choice(piece * 200_000, ANIMALS) in (*ANIMALS, None)


def test_texts_are_compared_in_one_unicode_form() -> None:
    assert is_right(unicodedata.normalize("NFD", "Löwe "), "löwe") and not is_right("Lowe", "Löwe")


def test_case_counts_where_choices_differ_in_nothing_else() -> None:
    assert is_right("CM7", "CM7", ("CM7", "Cm7")) and not is_right("Cm7", "CM7", ("CM7", "Cm7"))
    assert is_right("cm7", "CM7", ("CM7", "G7")) and is_right(" Dog", "dog", ("dog", "dog "))
