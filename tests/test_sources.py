"""Sources: each reads its published layout, leaves out what cannot be used with the reason, and goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from relisten import cli
from relisten.data import sources
from relisten.data.build import build
from relisten.data.build_config import BuildConfig
from relisten.data.sources import LeftOut, audioset_strong, audiotime, avqa, castella, musicbench
from relisten.types import Clip, Event


def sound(path: Path, seconds: float = 10.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(size=round(seconds * 8000)) * 0.1, 8000)
    return path


def text(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    return text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read(name: str, root: Path) -> tuple[list[Clip], LeftOut]:
    left_out = LeftOut()
    return list(sources.read(name, root, left_out)), left_out


def spans(clip: Clip) -> list[tuple[str, float, float]]:
    return [(event.label, event.start, event.end) for event in clip.events]


STRONG = """segment_id\tstart_time_seconds\tend_time_seconds\tlabel
s9d-2nh_JCQ_30000\t2.627\t7.237\t/m/053hz1
s9d-2nh_JCQ_30000\t0.000\t10.000\t/m/0bt9lr
s9d-2nh_JCQ_30000\t1.000\t9.500\t/m/05tny_
s9d-2nh_JCQ_30000\t3.0\t3.01\t/m/053hz1
s9d-2nh_JCQ_30000\t3.0\t4.0\t/m/unknown
AAAAAAAAAAA_0\t0.0\t4.0\t/m/053hz1
bbbbbbbbbbb_10000\t0.0\t4.0\t/m/053hz1
"""


def audioset(root: Path) -> Path:
    text(root / "meta" / "audioset_train_strong.tsv", STRONG)
    text(root / "meta" / "mid_to_display_name.tsv", "/m/053hz1\tCheering\n/m/0bt9lr\tDog\n/m/05tny_\tBark\n")
    sound(root / "train" / "Ys9d-2nh_JCQ_30.000_40.000.wav")
    text(root / "train" / "bbbbbbbbbbb.wav", "an error page of a dead video")
    return root


def test_audioset_names_labels_and_tells_what_is_dead(tmp_path: Path) -> None:
    clips, left_out = read("audioset_strong", audioset(tmp_path))
    assert [clip.id for clip in clips] == ["audioset-s9d-2nh_JCQ_30000"]
    assert spans(clips[0]) == [("Dog", 0.0, 10.0), ("Bark", 1.0, 9.5), ("Cheering", 2.627, 7.237)]
    assert clips[0].duration == 10.0
    assert left_out.counts["no recording"] == 1
    assert left_out.first["no recording"] == ["AAAAAAAAAAA_0"]
    assert left_out.notes["label /m/unknown has no name in mid_to_display_name.tsv"] == 1
    assert "1 noted: label /m/unknown has no name in mid_to_display_name.tsv (s9d-2nh_JCQ_30000)" in left_out.lines()
    assert sum(count for reason, count in left_out.counts.items() if reason.startswith("unreadable")) == 1


def test_audioset_keeps_the_most_specific_label(tmp_path: Path) -> None:
    ontology = [
        {"id": "/m/0jbk", "name": "Animal", "child_ids": ["/m/0bt9lr"]},
        {"id": "/m/0bt9lr", "name": "Dog", "child_ids": ["/m/05tny_"]},
        {"id": "/m/05tny_", "name": "Bark", "child_ids": []},
        {"id": "/m/053hz1", "name": "Cheering", "child_ids": []},
    ]
    text(tmp_path / "ontology.json", ontology)
    clips, _ = read("audioset_strong", audioset(tmp_path))
    assert spans(clips[0]) == [("Bark", 1.0, 9.5), ("Cheering", 2.627, 7.237)]
    assert clips[0].events[0].labels == {"kind_of": "Dog"}  # Animal has no name in the table
    above = audioset_strong.ancestors(tmp_path)
    assert above["/m/05tny_"] == {"/m/0bt9lr", "/m/0jbk"}
    apart = (Event("/m/0bt9lr", 0.0, 5.0), Event("/m/05tny_", 4.0, 9.0))
    assert [event.label for event in audioset_strong.most_specific(apart, above)] == ["/m/0bt9lr", "/m/05tny_"]


def test_audioset_takes_clips_and_not_whole_videos(tmp_path: Path) -> None:
    for name in ("s9d-2nh_JCQ_30.0-40.0", "s9d-2nh_JCQ_30000_40000"):
        root = audioset(tmp_path / name)
        (root / "train" / "Ys9d-2nh_JCQ_30.000_40.000.wav").rename(root / "train" / f"{name}.wav")
        assert len(read("audioset_strong", root)[0]) == 1
    sound(root / "train" / "AAAAAAAAAAA.wav", 60.0)
    clips, left_out = read("audioset_strong", root)
    [reason] = [reason for reason in left_out.counts if reason.startswith("the recording is longer than the clip")]
    assert len(clips) == 1 and left_out.first[reason] == ["AAAAAAAAAAA_0"]
    text(root / "ontology.json", [{"id": "/m/0bt9lr"}, {"id": "/m/05tny_", "child_ids": None}])
    assert audioset_strong.ancestors(root) == {"/m/0bt9lr": set(), "/m/05tny_": set()}


def test_without_names_audioset_is_refused_before_an_identifier_leaks(tmp_path: Path) -> None:
    (audioset(tmp_path) / "meta" / "mid_to_display_name.tsv").unlink()
    with pytest.raises(ValueError, match=r"holds no .*mid_to_display_name\.tsv"):
        read("audioset_strong", tmp_path)


MUSIC = {
    "dataset": "MusicBench", "location": "data/ckOe-8qdaew.wav", "main_caption": "A slow song.",
    "beats": [[0.4, 1.2, 2.0, 2.8], [1.0, 2.0, 1.0, 2.0]], "bpm": 75.2, "chords": ["F#m7", "N", "Bb"],
    "chords_time": [0.5, 3.0, 6.0], "key": ["F#", "minor"], "keyprob": [0.81], "is_audioset_eval_mcaps": False,
}  # fmt: skip


def test_musicbench_chords_are_events_and_its_gates_hold(tmp_path: Path) -> None:
    rows = [
        MUSIC, MUSIC | {"location": "data_aug2/-0SdAVK79lg_1.wav", "keyprob": [0.3]},
        MUSIC | {"location": "data/eval_______.wav", "is_audioset_eval_mcaps": True},
        MUSIC | {"location": "data/missing____.wav"}, MUSIC | {"keyprob": None}, {"dataset": "MusicBench"},
    ]  # fmt: skip
    lines(tmp_path / "MusicBench_train.json", rows)
    sound(tmp_path / "datashare" / "data" / "ckOe-8qdaew.wav")
    [clip], left_out = read("musicbench", tmp_path)
    assert spans(clip) == [("F sharp minor seventh chord", 0.5, 3.0), ("B flat major chord", 6.0, 10.0)]
    assert clip.descriptions["sound"] == "A slow song."
    assert clip.descriptions["music"] == (
        "The tempo is 75 beats a minute. The key is F# minor. Bars begin at 0.4, 2.0 s."
    )
    assert left_out.counts == {
        "keyprob below 0.5": 2, "comes from AudioSet's evaluation set": 1, "no recording": 1, "row has no location": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("chord", "name"), [("C", "C major"), ("Am", "A minor"), ("G/B", "G major"), ("X9", "X9")])
def test_chords_are_spelled_out(chord: str, name: str) -> None:
    assert musicbench.spelled(chord) == name


QUESTION = {
    "id": 183, "video_name": "-HG3Omg_89c_000030", "video_id": 341, "question_text": "What happened in the video?",
    "multi_choice": ["motorboat", "Yacht consignment", "Sailboat set sail", "Consignment car"], "answer": 1,
    "question_relation": "Both", "question_type": "Happening",
}  # fmt: skip


def test_avqa_questions_ask_about_audio(tmp_path: Path) -> None:
    rows = [
        QUESTION, QUESTION | {"id": 184, "question_relation": "View", "question_text": "What colour?"},
        QUESTION | {"id": 185, "answer": 4},
        QUESTION | {"id": 186, "multi_choice": ["a", "A", "b", "c"]},
    ]  # fmt: skip
    text(tmp_path / "train_qa.json", rows)
    sound(tmp_path / "audio" / "-HG3Omg_89c_30.wav")
    left_out = LeftOut()
    [example] = avqa.examples(tmp_path, left_out)
    assert example.question == "What happened in the audio?"
    assert example.answer == "Yacht consignment"
    assert left_out.counts == {
        "asks about View": 1, "the answer is not the number of a choice": 1, "two choices are the same": 1,
    }  # fmt: skip
    [clip], _ = read("avqa", tmp_path)
    assert "Yacht consignment" in clip.descriptions["sound"] and "colour" not in clip.descriptions["sound"]


def test_avqa_in_the_form_of_r1_aqa(tmp_path: Path) -> None:
    lines(tmp_path / "AVQA_train.jsonl", [QUESTION | {"audio_path": "wavs/-HG3Omg_89c_30.wav"}])
    sound(tmp_path / "wavs" / "-HG3Omg_89c_30.wav")
    assert len(list(avqa.examples(tmp_path, LeftOut()))) == 1


def test_audiotime_reads_pairs_and_keeps_captions_of_the_rest(tmp_path: Path) -> None:
    train = tmp_path / "train"
    pairs = {"syn_1": {"event": {"Jackhammer": [[7.66, 12.0]], "Dog": [[1, 2], [3, 4]]}, "caption": ["A dog.", "Yes."]}}
    counts = {"syn_1": {"event": {"Whip": [0.973, 2.783]}, "caption": "A whip cracks twice."}}
    text(train / "train5000_timestamp" / "timestamp_captions.json", pairs)
    text(train / "train5000_frequency" / "frequency_captions.json", counts)
    text(tmp_path / "test" / "test500_timestamp" / "timestamp_captions.json", pairs)
    for kind in ("timestamp", "frequency"):
        sound(train / f"train5000_{kind}" / "audio" / "syn_1.wav")
    counted, timed = read("audiotime", tmp_path)[0]
    assert spans(timed) == [("Dog", 1.0, 2.0), ("Dog", 3.0, 4.0), ("Jackhammer", 7.66, 10.0)]
    assert timed.descriptions == {"sound": "A dog."}
    assert (counted.id, counted.events) == ("audiotime-frequency-syn_1", ())
    assert audiotime.caption({}) == ""


def test_desed_reads_strong_tables_alone(tmp_path: Path) -> None:
    header = "filename\tonset\toffset\tevent_label\n"
    strong = header + "Y00pbt6aJV8Y_350.wav\t0.0\t9.971\tVacuum_cleaner\nYempty.wav\t\t\t\n"
    text(tmp_path / "metadata" / "validation" / "validation.tsv", strong)
    text(tmp_path / "metadata" / "train" / "weak.tsv", "filename\tevent_labels\nYx.wav\tCat\n")
    text(tmp_path / "metadata" / "eval" / "public.tsv", strong)
    text(tmp_path / "metadata" / "validation" / "eval_dcase2018.tsv", strong)
    text(tmp_path / "metadata" / "validation" / "youtube.tsv", strong)
    for name in ("Y00pbt6aJV8Y_350.wav", "Yempty.wav"):
        sound(tmp_path / "audio" / "validation" / name)
    [clip], left_out = read("desed", tmp_path)
    assert spans(clip) == [("Vacuum cleaner", 0.0, 9.971)]
    assert left_out.counts == {"no event with times": 1, "another table has this recording": 2}


def test_castella_reads_long_recordings(tmp_path: Path) -> None:
    row = {
        "yid": "-0awng26xQ8", "global_caption": "A man drives.", "duration": 12, "num_moments": 1,
        "moments": [{"local_caption": "A man signals", "timestamps": [[9, 11], [2, 6]]}],
    }  # fmt: skip
    rows = [row, row | {"yid": "shortshorts", "duration": 60}, row | {"yid": "goneXgoneXg"}]
    assert not [*castella.moments({"moments": {"a": 1}}), *castella.moments({"moments": ["a", {"timestamps": 3}]})]
    text(tmp_path / "json" / "en" / "train.json", rows)
    sound(tmp_path / "audio" / "-0awng26xQ8.wav", 12.0)
    sound(tmp_path / "audio" / "shortshorts.wav", 12.0)
    [clip], left_out = read("castella", tmp_path)
    assert spans(clip) == [("A man signals", 2.0, 6.0), ("A man signals", 9.0, 11.0)]
    assert left_out.counts == {"recording is shorter than listed": 1, "no recording": 1}


def test_musiccaps_leaves_out_the_evaluation_set(tmp_path: Path) -> None:
    table = (
        "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval\n"
        "-0Gj8-vB1q4,30,40,/m/0140xf,\"['low quality', 'ballad']\",\"A song, slow\nand sad.\",4,False,False\n"
        "-0SdAVK79lg,30,40,/m/0155w,\"['guitar']\",Blues.,0,False,True\n"
    )
    text(tmp_path / "musiccaps-public.csv", table)
    sound(tmp_path / "wav" / "[-0Gj8-vB1q4]-[30-40].wav")
    [clip], left_out = read("musiccaps", tmp_path)
    assert clip.descriptions == {"sound": "A song, slow\nand sad.", "music": "low quality, ballad"}
    assert left_out.counts == {"comes from AudioSet's evaluation set": 1}


def test_ones_own_events_as_jsonl_and_as_csv(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 3.0)
    rows = [
        {"id": "a", "audio_path": "a.wav", "descriptions": {"sound": "A yard.", "colour": "red"},
         "events": [{"label": "gate", "start": 1, "end": 2, "who": "me"}, {"label": "", "start": 0, "end": 1}]},
        {"id": "b", "audio_path": "b.wav"},
        {"id": "c"},
    ]  # fmt: skip
    path = lines(tmp_path / "mine.jsonl", rows)
    [clip], left_out = read("generic", path)
    assert (clip.events, clip.descriptions) == ((Event("gate", 1.0, 2.0, {"who": "me"}),), {"sound": "A yard."})
    assert left_out.counts["no recording"] == left_out.counts["has no audio_path"] == 1
    table = text(tmp_path / "mine.csv", "file,label,onset,offset\na.wav,gate,1,2\na.wav,gate,2.5,9\n")
    assert spans(read("generic", table)[0][0]) == [("gate", 1.0, 2.0), ("gate", 2.5, 3.0)]
    bad = text(tmp_path / "bad.csv", "file,what\na.wav,gate\n")
    with pytest.raises(ValueError, match="no column 'label'"):
        read("generic", bad)


def test_the_projects_scenes(tmp_path: Path) -> None:
    event = {"label": "organ", "start": 0.5, "end": 1.5, "heard": "a low organ", "group": "instrument"}
    lines(tmp_path / "events.jsonl", [{"id": "s-1", "audio_path": "audio/s-1.flac", "events": [event]}])
    sound(tmp_path / "audio" / "s-1.flac", 2.0)
    [clip], _ = read("scenes", tmp_path)
    assert clip.events == (Event("organ", 0.5, 1.5, {"heard": "a low organ", "group": "instrument"}),)


def test_a_plain_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b/yard.wav", "a.flac", "a.wav", ".hidden/x.wav"):
        sound(tmp_path / name, 1.0)
    text(tmp_path / "broken.mp3", "nothing")
    clips = list(sources.read("folder", tmp_path))  # nobody takes the notes, so they are printed at the end
    assert [clip.id for clip in clips] == ["a", "a.wav", "b/yard"]
    assert "folder: 1 left out: unreadable" in capsys.readouterr().err


def test_every_source_says_what_it_is_and_ones_own_needs_no_wiring(tmp_path: Path) -> None:
    known = sources.about()
    assert set(known) == {
        "audioset_strong", "audiotime", "avqa", "castella", "desed", "folder", "generic", "musicbench", "musiccaps",
        "scenes",
    }  # fmt: skip
    for about in known.values():
        assert about.what and about.where and about.licence and about.files
    with pytest.raises(ValueError, match="no source 'nothing'; there are audioset_strong"):
        list(sources.read("nothing", tmp_path))
    own = sources.read(f"{__name__}:own", tmp_path)
    assert [clip.id for clip in own] == ["mine"]


def own(root: Path) -> list[Clip]:
    return [Clip("mine", root / "x.wav", 1.0)]


def broken(root: Path) -> Iterator[Clip]:
    """A source of one's own that gives what is no clip."""
    yield "clip"  # type: ignore[misc]


def test_what_is_wrong_with_a_table_or_ones_own_source_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source test_sources:broken: TypeError: gives str"):
        list(sources.read("test_sources:broken", tmp_path))
    (tmp_path / "e.csv").write_text('audio_path,label,start,end\n"a.wav,dog,0,1\n' + "x" * 200_000)
    with pytest.raises(ValueError, match=r"e\.csv, line \d+: cannot be read .* is a quote left open"):
        read("generic", tmp_path / "e.csv")
    with pytest.raises(ValueError, match="rules needs sounds by name, and castella has captions"):
        build(BuildConfig(source="castella", root=tmp_path, out=tmp_path / "out"))


def test_what_is_left_out_is_counted_and_handed_on() -> None:
    all_of_it: list[tuple[str, str]] = []
    left_out = LeftOut(lambda id, reason: all_of_it.append((id, reason)))
    for number in range(5):
        left_out(f"clip-{number}", "no recording")
    assert left_out.lines() == ["5 left out: no recording (clip-0, clip-1, clip-2, ...)"]
    assert len(all_of_it) == 5


def test_sources_stream(tmp_path: Path) -> None:
    """The first clip is there before the last row was read."""
    sound(tmp_path / "a.wav", 1.0)
    table = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n" + "a_0\t0\t1\t/m/1\n" + "b_0\t0\t1\n" * 3
    text(tmp_path / "audioset_train_strong.tsv", table)
    text(tmp_path / "mid_to_display_name.tsv", "/m/1\tBell\n")
    assert next(iter(sources.read("audioset_strong", tmp_path, LeftOut()))).id == "audioset-a_0"


def test_data_sources_lists_and_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audioset(tmp_path / "as")
    assert cli.run(["data", "sources", "--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "audioset_strong" in shown
    assert "CC BY 4.0" in shown
