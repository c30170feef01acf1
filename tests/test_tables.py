"""Tables that people have: their encodings, separators, column names and ways to write a time, each read rightly or
refused with the file, the line or the column. A wrong reading would put wrong words and times into questions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_sources import lines, read, sound, spans, text

from relisten.data import sources, tables
from relisten.types import Clip

TABLE = "filename,event_label,onset,offset\na.wav,Straßenbahn,1,2\na.wav,gate,2.5,3\n"
RIGHT = [("Straßenbahn", 1.0, 2.0), ("gate", 2.5, 3.0)]


def one(tmp_path: Path, content: str, name: str = "mine.csv", seconds: float = 10.0) -> list[tuple[str, float, float]]:
    """The events that a table of a.wav gives."""
    sound(tmp_path / "a.wav", seconds)
    [clip], _ = read("generic", text(tmp_path / name, content))
    return spans(clip)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_unicode_is_read_in_each_of_its_forms(tmp_path: Path, encoding: str, newline: str) -> None:
    sound(tmp_path / "a.wav")
    mark = "\ufeff" if encoding.endswith("-bom") else ""
    written = (mark + TABLE.replace("\n", newline)).encode(encoding.removesuffix("-bom"))
    (tmp_path / "mine.csv").write_bytes(written)
    [clip], _ = read("generic", tmp_path / "mine.csv")
    assert spans(clip) == RIGHT


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp850", "mac-roman"])
def test_a_code_page_is_refused_by_line_and_no_question_mark_gets_into_a_label(tmp_path: Path, encoding: str) -> None:
    """It was read with replacement characters: "Stra\ufffdenbahn" stood in questions and answers."""
    sound(tmp_path / "a.wav")
    (tmp_path / "mine.csv").write_bytes(TABLE.encode(encoding))
    with pytest.raises(ValueError, match=r"mine\.csv, line 2: is not UTF-8 text; .* `iconv -f WINDOWS-1252 -t UTF-8"):
        read("generic", tmp_path / "mine.csv")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32"])
def test_text_with_zero_bytes_is_refused(tmp_path: Path, encoding: str) -> None:
    sound(tmp_path / "a.wav")
    (tmp_path / "mine.csv").write_bytes(TABLE.encode(encoding))
    with pytest.raises(ValueError, match=r"mine\.csv.*save the table as UTF-8"):
        read("generic", tmp_path / "mine.csv")
    (tmp_path / "mine.csv").write_bytes(TABLE.encode("utf-16") + b"x")
    with pytest.raises(ValueError, match=r"mine\.csv: cannot be read as UTF-16"):
        read("generic", tmp_path / "mine.csv")


def test_every_source_that_reads_text_refuses_a_code_page(tmp_path: Path) -> None:
    old = "Straßenbahn".encode("cp1252")

    def place(name: str, content: bytes) -> Path:
        (path := tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path.parent

    cases = {
        "desed": ("desed/metadata/train.tsv", b"filename\tonset\toffset\tevent_label\na.wav\t0\t1\t" + old),
        "audioset_strong": ("strong/mid_to_display_name.tsv", b"/m/1\t" + old + b"\n"),
        "musiccaps": (
            "caps/musiccaps-public.csv",
            b"ytid,start_s,end_s,aspect_list,caption,is_audioset_eval\nx,0,1,[]," + old + b",False\n",
        ),
        "castella": ("castella/json/en/train.json", b'[{"yid": "' + old + b'"}]'),
        "audiotime": ("time/x_captions.json", b'{"' + old + b'": {}}'),
        "generic": ("mine/clips.jsonl", b'{"audio_path": "' + old + b'"}'),
    }
    place("strong/audioset_train_strong.tsv", b"segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n")
    for source, (name, content) in cases.items():
        place(name, content)
        root = tmp_path / name.split("/")[0]
        with pytest.raises(ValueError, match=r"line \d+: is not UTF-8"):
            list(sources.read(source, root))


TIMES = [
    ("1", 1.0), ("1.25", 1.25), (" 1.25 ", 1.25), ("1,25", 1.25), (".5", 0.5), ("1e-1", 0.1), ("+2", 2.0),
    ("0:01", 1.0), ("1:02", 62.0), ("01:02.5", 62.5), ("1:02,5", 62.5), ("0:01:02", 62.0), ("1:00:00.25", 3600.25),
    ("1.5 s", 1.5), ("1,5s", 1.5), ("1500 ms", 1.5), ("2 sec", 2.0), (3, 3.0), (0.125, 0.125),
    ("", None), (" ", None), ("NaN", None), ("n/a", None), (None, None),
]  # fmt: skip


@pytest.mark.parametrize(("written", "right"), TIMES)
def test_times_as_people_write_them(written: object, right: float | None) -> None:
    assert tables.seconds(written) == right


@pytest.mark.parametrize(
    "written",
    ["one", "1:75", "1:61:00", "0:00:01:500", "1,250.5", "1.2.3", "1_000", "inf", "1e999", "12 frames", True, [1.0],
     float("nan"), float("inf"), 10**400, "-0:01"],
)  # fmt: skip
def test_what_is_no_time_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="is not a time; write seconds"):
        tables.seconds(written)


def test_a_cell_that_is_no_time_is_named_with_its_line_and_column(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    path = text(tmp_path / "mine.csv", "file,label,onset,offset\na.wav,dog,1,2\na.wav,cat,3,soon\n")
    with pytest.raises(ValueError, match=r"mine\.csv, line 3, column 'offset': 'soon' is not a time"):
        read("generic", path)


GERMAN = "Datei;file;label;start;end\n1;a.wav;Straßenbahn;1,0;2,0\n2;a.wav;gate;2,5;3,0\n"
LAYOUTS = {
    "comma": "file,label,start,end\na.wav,Straßenbahn,1,2\na.wav,gate,2.5,3\n",
    "German Excel": GERMAN,
    "Excel's own first line": "sep=;\n" + GERMAN,
    "tab": "path\tclass\tbegin\tstop\na.wav\tStraßenbahn\t1\t2\na.wav\tgate\t2.5\t3\n",
    "DCASE": "filename\tonset\toffset\tevent_label\na.wav\t1\t2\tStraßenbahn\na.wav\t2.5\t3\tgate\n",
    "DCASE without header": "a.wav\t1.0\t2.0\tStraßenbahn\na.wav\t2.5\t3.0\tgate\n",
    "capitals and blanks": "Audio File,Tag,Start Time,End Time\na.wav,Straßenbahn,1,2\na.wav,gate,2.5,3\n",
    "unit in brackets": "Filename,Class Name,Start (s),End [s]\na.wav,Straßenbahn,1,2\na.wav,gate,2.5,3\n",
    "milliseconds by name": "file,label,start_ms,end_ms\na.wav,Straßenbahn,1000,2000\na.wav,gate,2500,3000\n",
    "milliseconds by size": "file,label,start,end\na.wav,Straßenbahn,1000,2000\na.wav,gate,2500,3000\nb.wav,x,9,9500\n",
    "length": "file,label,onset,duration\na.wav,Straßenbahn,1,1\na.wav,gate,2.5,0.5\n",
    "length in milliseconds": "file,label,onset_ms,duration_ms\na.wav,Straßenbahn,1000,1000\na.wav,gate,2500,500\n",
    "clock": "file,label,start,end\na.wav,Straßenbahn,0:01,0:02\na.wav,gate,00:00:02.5,00:00:03\n",
    "joined words": "fileName,className,startTime,endTime\na.wav,Straßenbahn,1,2\na.wav,gate,2.5,3\n",
    "numbers of classes": "file,class,class_name,start,end\na.wav,3,Straßenbahn,1,2\na.wav,4,gate,2.5,3\n",
    "two ways to write a path": "file,label,start,end\na.wav,gate,2.5,3\n./a.wav,Straßenbahn,1,2\n",
    "quotes": '"file","label","start","end"\n"a.wav","Straßenbahn","1","2"\n"a.wav","gate","2.5","3"\n',
    "quotes and tabs": '"file"\t"label"\t"start"\t"end"\n"a.wav"\t"Straßenbahn"\t1\t2\n"a.wav"\t"gate"\t2.5\t3\n',
    "more columns": "split,file,label,confidence,start,end\n1,a.wav,Straßenbahn,0.5,1,2\n1,a.wav,gate,1,2.5,3\n",
    "empty cells at the end": "file,label,start,end\na.wav,Straßenbahn,1,2,,\na.wav,gate,2.5,3,\n\n,,,\n",
    "three decimals": "file;label;start;end\na.wav;Straßenbahn;1,000;2,000\na.wav;gate;2,500;3,000\n",
    "out of order": "file,label,start,end\na.wav,gate,2.5,3\na.wav,Straßenbahn,1,2\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_people_have(tmp_path: Path, layout: str) -> None:
    sound(tmp_path / "b.wav")
    sound(tmp_path / "a.wav")
    clips, _ = read("generic", text(tmp_path / "mine.csv", LAYOUTS[layout]))
    assert spans(clips[0]) == RIGHT


RAVEN = (
    "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies\n"
    "1\tWaveform 1\t1\t1.0\t2.0\t0.0\t8000.0\tStraßenbahn\n1\tSpectrogram 1\t1\t1.0\t2.0\t0.0\t8000.0\tStraßenbahn\n"
    "2\tSpectrogram 1\t1\t2.5\t3.0\t0.0\t8000.0\tgate\n"
)
TRACKS = {
    "a.txt": "1.000000\t2.000000\tStraßenbahn\n\\\t500.0\t900.0\n2.500000\t3.000000\tgate\n",
    "a.csv": "onset,offset,event_label\n1,2,Straßenbahn\n2.5,3,gate\n",
    "a.Table.1.selections.txt": RAVEN,
}


@pytest.mark.parametrize("name", TRACKS)
def test_label_tracks_belong_to_the_recording_beside_them(tmp_path: Path, name: str) -> None:
    sound(tmp_path / "a.wav")
    text(tmp_path / "notes.txt", "not a table\n")
    text(tmp_path / name, TRACKS[name])
    for root in (tmp_path, tmp_path / name):
        [clip], _ = read("generic", root)
        assert (clip.id, spans(clip)) == ("a", RIGHT)


REFUSED = {
    "samples": ("file,label,start_sample,end_sample\na.wav,dog,16000,32000\n", "counts sample; give seconds"),
    "too large for seconds, no milliseconds": (
        "file,label,start,end\na.wav,dog,16000,32000\na.wav,cat,48000,160000\n",
        r"2 of 2 events end after their recording if 'start' and 'end' are in seconds",
    ),
    "frames, which milliseconds would squeeze into the first moment": (
        "file,label,start,end\na.wav,dog,50,100\na.wav,cat,200,500\n", "2 of 2 events end after their recording",
    ),
    "two units": ("file,label,start_s,end_ms\na.wav,dog,1,2000\n", "'start_s' and 'end_ms' have different units"),
    "a comma within a cell": ("file,label,start,end\na.wav,dog,1,5,2,5\n", "line 2: has 6 cells, and the header has 4"),
    "two columns of one name": ("file,file,label,start,end\na.wav,b.wav,dog,1,2\n", "has two columns 'file'"),
    "two columns that differ in case": ("file,label,Start,start,end\na.wav,dog,0,1,2\n", "has two columns 'Start'"),
    "a quote that never closes": ('file,label,start,end\na.wav,"dog,1,2\na.wav,cat,3,4\n', "line 3: .* left open"),
    "a word behind a quote": ('file,label,start,end\na.wav,"dog" loud,1,2\n', "line 2: .* a quote left open"),
    "one recording under two names": (
        "file,label,start,end\na.wav,dog,1,2\na,cat,3,4\n", "'a.wav' and 'a' are the same recording",
    ),
    "a row without a name": ("file,label,start,end\n,dog,1,2\n", r"line 2, column 'file': is empty"),
    "no label": ("file,start,end\na.wav,1,2\n", r"has no column 'label' \(or event_label"),
    "no recording": ("label,start,end\ndog,1,2\n", r"has no column 'audio_path' \(or audio, path"),
    "nothing": ("", "has no column 'label'.*its columns are none"),
    "an offset that begins": ("file,label,offset,duration\na.wav,dog,1,2\n", "has no column 'start'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_refused_by_name(tmp_path: Path, case: str) -> None:
    content, told = REFUSED[case]
    sound(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=rf"mine\.csv.*{told}"):
        read("generic", text(tmp_path / "mine.csv", content))


def test_a_label_over_two_lines_is_one_line_in_questions(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    [clip], _ = read("generic", text(tmp_path / "mine.csv", 'file,label,start,end\na.wav,"dog\n  barks",1,2\n'))
    assert [event.label for event in clip.events] == ["dog barks"]


def test_a_comma_that_may_part_thousands_is_refused_only_where_both_readings_fit(tmp_path: Path) -> None:
    content = 'file,label,start,end\na.wav,dog,"1,250","2,500"\n'
    assert one(tmp_path, content) == [("dog", 1.25, 2.5)]
    with pytest.raises(ValueError, match=r"not clear whether the comma of '1,250' in 'start' and 'end' is a decimal"):
        one(tmp_path, content, seconds=2600.0)
    assert one(tmp_path, content + 'a.wav,cat,"0,5","0,75"\n', seconds=2600.0)[0] == ("cat", 0.5, 0.75)


def test_milliseconds_are_told(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    table = text(tmp_path / "mine.csv", "file,label,start,end\na.wav,dog,100,2000\na.wav,cat,2500,9900\n")
    _, left_out = read("generic", table)
    assert any("'start' and 'end' are read as milliseconds" in line for line in left_out.lines())


def test_events_that_cannot_be_used_are_told_by_reason(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    rows = "dog,1,2\ndog,1,2\n,3,4\ncat,,\ncow,5,5.01\npig,11,12\nhen,9,12\nowl,1,2\nfox,2,3\n,,\nape,4,3\n"
    table = text(tmp_path / "mine.csv", "file,label,start,end\n" + "".join(f"a.wav,{r}\n" for r in rows.splitlines()))
    [clip], left_out = read("generic", table)
    assert spans(clip) == [("dog", 1.0, 2.0), ("owl", 1.0, 2.0), ("fox", 2.0, 3.0), ("hen", 9.0, 10.0)]
    assert left_out.notes == {
        "an event is listed twice and taken once": 1,
        "an event is dropped: it has no label": 1,
        "an event is dropped: it has no readable times": 1,
        "an event is dropped: it is shorter than 0.05 s": 1,
        "an event is dropped: it ends before it starts": 1,
        "an event is dropped: it begins after the recording's end": 1,
    }


APART = [("a", "late", 5.0, 6.0), ("b", "other", 1.0, 2.0), ("a", "early", 1.0, 2.0)]
JOINED = [("early", 1.0, 2.0), ("late", 5.0, 6.0)]


def check_joined(clips: list[Clip], left_out: sources.LeftOut) -> None:
    assert [spans(clip) for clip in clips] == [JOINED, [("other", 1.0, 2.0)]]
    assert left_out.notes[sources.JOINED] == 1 and not left_out.counts


def test_rows_of_one_recording_are_joined_wherever_they_are(tmp_path: Path) -> None:
    """The first block alone became the clip, so that "what is heard first?" was answered wrongly."""
    for name in ("a", "b"):
        sound(tmp_path / f"{name}.wav")
        sound(tmp_path / "desed" / "audio" / f"{name}.wav")
        sound(tmp_path / "castella" / "audio" / f"{name}.wav")
    table = "".join(f"{name}.wav,{label},{start},{end}\n" for name, label, start, end in APART)
    check_joined(*read("generic", text(tmp_path / "mine.csv", "file,label,start,end\n" + table)))

    rows = [
        {"audio_path": f"{name}.wav", "events": [{"label": label, "start": start, "end": end}]}
        for name, label, start, end in APART
    ]
    check_joined(*read("generic", lines(tmp_path / "mine.jsonl", rows)))
    flat = [{"file": f"{name}.wav", "class": label, "onset": start, "offset": end} for name, label, start, end in APART]
    check_joined(*read("generic", lines(tmp_path / "flat.jsonl", flat)))

    desed = "filename\tonset\toffset\tevent_label\n"
    desed += "".join(f"{name}.wav\t{start}\t{end}\t{label}\n" for name, label, start, end in APART)
    text(tmp_path / "desed" / "metadata" / "train.tsv", desed)
    check_joined(*read("desed", tmp_path / "desed"))

    moments = [
        {"yid": name, "global_caption": "A place.", "moments": [{"local_caption": label, "timestamps": [[start, end]]}]}
        for name, label, start, end in APART
    ]
    text(tmp_path / "castella" / "json" / "en" / "train.json", moments)
    clips, left_out = read("castella", tmp_path / "castella")
    check_joined(clips, left_out)
    assert clips[0].descriptions == {"sound": "A place."}


def test_audioset_and_avqa_join_rows_too(tmp_path: Path) -> None:
    for name in ("aaaaaaaaaaa_0", "bbbbbbbbbbb_0"):
        sound(tmp_path / "strong" / f"{name}.wav")
    rows = [("aaaaaaaaaaa_0", "/m/2", 5, 6), ("bbbbbbbbbbb_0", "/m/3", 1, 2), ("aaaaaaaaaaa_0", "/m/1", 1, 2)]
    table = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    table += "".join(f"{name}\t{start}\t{end}\t{label}\n" for name, label, start, end in rows)
    text(tmp_path / "strong" / "audioset_train_strong.tsv", table)
    text(tmp_path / "strong" / "mid_to_display_name.tsv", "/m/1\tearly\n/m/2\tlate\n/m/3\tother\n")
    check_joined(*read("audioset_strong", tmp_path / "strong"))

    asked = {"question_text": "What is it?", "multi_choice": ["x", "y"], "question_relation": "Sound"}
    questions = [{"id": n, "video_name": name, "answer": n % 2, **asked} for n, name in enumerate(("a", "b", "a"))]
    text(tmp_path / "avqa" / "train_qa.json", questions)
    for name in ("a", "b"):
        sound(tmp_path / "avqa" / f"{name}.wav")
    clips, left_out = read("avqa", tmp_path / "avqa")
    assert [clip.descriptions["sound"] for clip in clips] == ["What is it? x. What is it? x.", "What is it? y."]
    assert left_out.first[sources.JOINED] == ["a.wav"]


def test_jsonl_takes_other_names_and_times_and_keeps_what_else_is_said(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    event = {"event_label": "Straßenbahn", "onset": "0:01", "offset": "0:02", "level": -3}
    rows = [
        {"id": "mine", "file": "a.wav", "descriptions": {"sound": "A street."}, "events": [event]},
        {"id": "again", "file": "a.wav", "descriptions": {"sound": "At noon."}, "events": []},
    ]
    [clip], _ = read("generic", lines(tmp_path / "clips.jsonl", rows))
    assert (clip.id, spans(clip)) == ("mine", [("Straßenbahn", 1.0, 2.0)])
    assert clip.events[0].labels == {"level": -3} and clip.descriptions == {"sound": "A street. At noon."}
    lines(tmp_path / "clips.jsonl", [{"file": "a.wav", "events": [{"label": "x", "start_ms": 100, "end_ms": 900}]}])
    assert spans(read("generic", tmp_path)[0][0]) == [("x", 0.1, 0.9)]
    lines(tmp_path / "clips.jsonl", [{"file": "a.wav", "events": [{"label": "x", "start": 0, "end": "soon"}]}])
    with pytest.raises(ValueError, match=r"clips\.jsonl, line 1: column 'end': 'soon' is not a time"):
        read("generic", tmp_path)


def test_a_folder_of_several_tables_is_not_guessed_at(tmp_path: Path) -> None:
    """The first by name was taken, and the others were passed over without a word."""
    sound(tmp_path / "a.wav")
    text(tmp_path / "dogs.csv", TABLE)
    text(tmp_path / "trams.csv", TABLE)
    with pytest.raises(ValueError, match=r"holds several tables \(dogs\.csv, trams\.csv\); name the one"):
        read("generic", tmp_path)
    text(tmp_path / "events.csv", TABLE)
    assert spans(read("generic", tmp_path)[0][0]) == RIGHT


def test_raven_tables_over_several_recordings_are_refused(tmp_path: Path) -> None:
    """Raven counts the times on from one recording to the next, so that only the first one's would be right."""
    table = "Begin Time (s)\tEnd Time (s)\tBegin File\tSpecies\n1\t2\ta.wav\towl\n11\t12\tb.wav\towl\n"
    sound(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"mine\.txt, line 3: is about a second recording, 'b\.wav'"):
        read("generic", text(tmp_path / "mine.txt", table))


def test_windows_paths_in_a_table_are_found(tmp_path: Path) -> None:
    sound(tmp_path / "wav" / "a.wav")
    [clip], _ = read("generic", text(tmp_path / "mine.csv", "file,label,start,end\nwav\\a.wav,dog,1,2\n"))
    assert spans(clip) == [("dog", 1.0, 2.0)]


def test_json_that_is_not_json_names_the_file(tmp_path: Path) -> None:
    text(tmp_path / "x_captions.json", json.dumps({"a": {}})[:-1])
    with pytest.raises(ValueError, match=r"x_captions\.json: is not JSON"):
        read("audiotime", tmp_path)


def test_any_bytes_give_clips_or_one_line(tmp_path: Path) -> None:
    """300 tables with bytes changed, cut, doubled or put in at random (seed 18): no other error than a ValueError."""
    rng = np.random.default_rng(18)
    sound(tmp_path / "a.wav")
    seeds = [*(layout.encode() for layout in LAYOUTS.values()), TABLE.encode("utf-16"), RAVEN.encode()]
    odd = [b"\0", b"\xff", b'"', b";", b",", b"\t", b"\r", b"\n", b"1e999", b"NaN", b":", b"\xef\xbb\xbf", b"=", b"\\"]
    refused = []
    for number in range(300):
        content = seeds[number % len(seeds)]
        for _ in range(rng.integers(1, 4)):
            at, end = sorted(int(place) for place in rng.integers(0, len(content) + 1, 2))
            put = [odd[rng.integers(len(odd))], b"", content[at:end], rng.bytes(2)][rng.integers(4)]
            content = content[:at] + put + content[at + (len(put) if rng.random() < 0.5 else 0) :]
        (tmp_path / "mine.csv").write_bytes(content)
        try:
            for clip in read("generic", tmp_path / "mine.csv")[0]:
                assert all(0 <= event.start < event.end <= clip.duration and event.label for event in clip.events)
        except ValueError as error:
            refused.append(str(error))
    assert all("mine.csv" in message and "\n" not in message for message in refused)
    assert 50 < len(refused) < 275
