import json

import pytest
import small_corpus

from data_pipelines import convert
from data_pipelines.failures import FailurePolicy
from data_pipelines.media.images import read_bytes
from data_pipelines.schema import DataError, SampleError, SourceSettings
from data_pipelines.sources import open_source


def write_rows(root, extra=()):
    small_corpus.write_image(root / "media/a.png", 40, 50)
    good = [{"image": "a.png", "conversations": small_corpus.turns(f"<image> {number}?")} for number in range(8)]
    return small_corpus.write_jsonl(root / "rows.jsonl", [*good, *extra])


def run(root, *more):
    arguments = ["--input", str(root / "rows.jsonl"), "--media-root", str(root / "media"), "--output", str(root / "out"), "--name", "rows"]
    return convert.main([*arguments, *more])


def test_the_command_writes_a_dataset_and_prints_its_folder(tmp_path, capsys):
    write_rows(tmp_path)
    assert run(tmp_path) == 0
    folder = capsys.readouterr().out.strip()
    assert folder == str(tmp_path / "out/rows/1.0.0")
    assert len(open_source(SourceSettings("rows", "tfds", folder))) == 8
    assert sorted(path.name for path in (tmp_path / "out/rows").iterdir()) == ["1.0.0"]
    assert not (tmp_path / "out/rows.skipped.jsonl").exists()


def test_shards_close_at_their_size(tmp_path):
    write_rows(tmp_path)
    size = (tmp_path / "media/a.png").stat().st_size
    settings = SourceSettings("rows", "jsonl", str(tmp_path / "rows.jsonl"), str(tmp_path / "media"))
    folder, _ = convert.convert(settings, tmp_path / "out", 2 * size, FailurePolicy())
    names = sorted(path.name for path in folder.glob("*array_record*"))
    assert len(names) == 4 and names[0] == "rows-train.array_record-00000-of-00004"
    assert [open_source(SourceSettings("rows", "tfds", str(folder)))[i].turns[0].text for i in (0, 7)] == ["<image> 0?", "<image> 7?"]


@pytest.mark.parametrize("target", ["tar", "tfds"])
def test_shards_of_so_many_samples_of_one_input_file(tmp_path, target):
    """Divided before it is known what can be used: names are those of the places in the source."""
    write_rows(tmp_path)
    (tmp_path / "more.jsonl").write_text("{broken\n{broken\n" + "".join((tmp_path / "rows.jsonl").read_text().splitlines(True)[:3]))
    arguments = [f"--format={target}", "--shard-samples=2", f"--input={tmp_path / 'more.jsonl'}", "--max-failure-rate=0.9"]
    assert run(tmp_path, *arguments) == 0
    made = opened(target, tmp_path / "out/rows", "rows")
    assert [shard.samples for shard in made.shards()] == [2, 2, 2, 2, 2, 1]
    if target == "tar":
        assert [made.key(number).rpartition("/")[2] for number in (7, 8, 9, 10)] == ["000000007", "000000010", "000000011", "000000012"]


def test_bad_samples_are_left_out_counted_and_named(tmp_path, capsys):
    (tmp_path / "media").mkdir()
    (tmp_path / "media/empty.png").touch()
    for name in ("text.png", "text.mp4"):
        (tmp_path / "media" / name).write_text("neither a picture nor a clip")
    bad = [{"image": name, "conversations": small_corpus.turns("<image>?")} for name in ("none.png", "empty.png", "text.png", "../x.png")]
    write_rows(tmp_path, [*bad, "{broken", {"video": "text.mp4", "conversations": small_corpus.turns("<video>")}])
    assert run(tmp_path) == 0
    assert "6 of 14 samples failed" in capsys.readouterr().err
    named = [json.loads(line) for line in (tmp_path / "out/rows.skipped.jsonl").read_text().splitlines()]
    assert [(entry["key"], entry["reason"]) for entry in named] == [
        ("rows.jsonl:9", "missing_file"),
        ("rows.jsonl:10", "empty_file"),
        ("rows.jsonl:11", "not_an_image"),
        ("rows.jsonl:12", "path_escapes_root"),
        ("rows.jsonl:13", "broken_json"),
        ("rows.jsonl:14", "broken_video"),
    ]
    assert len(open_source(SourceSettings("rows", "tfds", str(tmp_path / "out/rows/1.0.0")))) == 8


def test_too_many_bad_samples_stop_the_conversion_and_leave_nothing_complete(tmp_path):
    write_rows(tmp_path, ["{broken"] * 3)
    settings = SourceSettings("rows", "jsonl", str(tmp_path / "rows.jsonl"), str(tmp_path / "media"))
    with pytest.raises(DataError, match=r"3 samples failed one after the other.*3 broken_json"):
        convert.convert(settings, tmp_path / "out", 1 << 20, FailurePolicy(max_run=2))
    with pytest.raises(DataError, match=r"more than 10.00% of the samples failed: 3 of 11"):
        convert.convert(settings, tmp_path / "out", 1 << 20, FailurePolicy(max_rate=0.1, minimum_samples=11))
    assert list((tmp_path / "out/rows").iterdir()) == []
    folder, failures = convert.convert(settings, tmp_path / "out", 1 << 20, FailurePolicy())  # over what the stopped ones left
    assert failures.failed == 3 and len(open_source(SourceSettings("rows", "tfds", str(folder)))) == 8


@pytest.mark.parametrize(("bad", "status"), [(2, 65), (1, 0)])
def test_small_data_fail_beyond_the_limit(tmp_path, capsys, bad, status):
    """From 20 rows on, and wherever the bad ones stand: the share of the whole file decides."""
    write_rows(tmp_path, [*({"conversations": small_corpus.turns(f"{number}?")} for number in range(12)), *["{broken"] * bad])
    assert run(tmp_path) == status
    assert (f"more than 1.00% of the samples failed: {bad} of {20 + bad}" in capsys.readouterr().err) is bool(status)
    assert (tmp_path / "out/rows/1.0.0").exists() is not bool(status)


def test_a_key_to_ignore(tmp_path):
    write_rows(tmp_path, [{"tools": "[]x", "conversations": small_corpus.turns("x")}])
    assert run(tmp_path, "--ignore", "tools") == 0
    assert len(open_source(SourceSettings("rows", "tfds", str(tmp_path / "out/rows/1.0.0")))) == 9


def test_what_cannot_be_written_is_refused(tmp_path, capsys):
    write_rows(tmp_path)
    assert run(tmp_path) == 0
    assert run(tmp_path) == 65 and "exists; delete it" in capsys.readouterr().err
    (tmp_path / "rows.jsonl").write_text("{broken\n")
    assert run(tmp_path, "--name", "other") == 65 and "nothing to write" in capsys.readouterr().err
    for wrong in (["--name", "a/b"], ["--shard-megabytes", "0"], ["--shard-samples", "-1"]):
        with pytest.raises(SystemExit) as stopped:
            run(tmp_path, *wrong)
        assert stopped.value.code == 2


def test_a_damaged_record_is_a_sample_that_cannot_be_used(tmp_path, capsys):
    """Bytes flipped in the middle of a file: its record is named, the others are read; and a file cut short is refused."""
    write_rows(tmp_path)
    assert run(tmp_path) == 0
    folder = tmp_path / "out/rows/1.0.0"
    (file,) = folder.glob("*array_record*")
    content = bytearray(file.read_bytes())
    at = content.index(b"<image> 3?")
    content[at : at + 5] = b"\xff" * 5
    file.write_bytes(content)
    source = open_source(SourceSettings("rows", "tfds", str(folder)))
    reasons = []
    for number in range(8):
        try:
            assert source[number].turns[0].text == f"<image> {number}?" and source.key(number) == f"rows.jsonl:{number + 1}"
        except SampleError as error:
            reasons.append((source.key(number), error.reason))
            assert f"{file.name}[{number}]" in str(error) and str(folder) in str(error)
    assert reasons == [(f"{file.name}[3]", "broken_record")]
    file.write_bytes(content[:2000])
    with pytest.raises(DataError, match=r"source 'rows': .*array_record-00000-of-00001 is cut short, damaged or without records"):
        open_source(SourceSettings("rows", "tfds", str(folder)))


def write_every_kind(root):
    """Rows of every kind that a sample can be: files and frames, words that look like marks, texts and pages."""
    for number in range(3):
        small_corpus.write_image(root / f"media/{number}.png", 40, 50 + number, number)
    small_corpus.write_video(root / "media/clip.mp4")
    turns = small_corpus.turns
    system = [
        {"from": "system", "value": "Tags: \\<image>."},
        {"from": "human", "value": "x"},
        {"from": "gpt", "value": "y", "is_input": True},
    ]
    pages = {"images": [None, "0.png", "1.png", None], "texts": ["A <image>\nB", None, None, "C"]}
    parts = [{"type": "text", "text": "The tag <image>: "}, {"type": "image", "image": "0.png"}, {"type": "text", "text": " here"}]
    rows = [
        {"image": "0.png", "conversations": turns("<image>\nWhat?", "The tag <image>."), "family": "what"},
        {"images": ["0.png", "1.png"], "video": "clip.mp4", "conversations": turns("a <image>b<image>", "c") + turns("<video> d", "e")},
        {"video": ["0.png", "1.png", "2.png"], "timestamps": [0, 0.5, 2], "conversations": turns("<video>?")},
        {"conversations": turns("What is <video> or \\<image>?", "<image> \\<video>")},
        {"conversations": [*system, *turns("Again?", "Yes.")]},
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "The word <image>"}]},
        {"image": "2.png", "text": "A caption \u4e16"},
        {"text": "A plain text with <image> and\n\nlines.\n"},
        pages,
    ]
    return small_corpus.write_jsonl(root / "rows.jsonl", rows)


def content(source):
    samples = [source[number] for number in range(len(source))]
    return [
        (sample.turns, sample.family, [clip.times for clip in sample.clips], len(sample.images), list(map(read_bytes, sample.files)))
        for sample in samples
    ]


def opened(target, folder, name):
    path = {"tfds": folder / "1.0.0"}.get(target, folder / f"{name}-*")
    return open_source(SourceSettings(name, target, str(path), str(folder / "media") if target == "jsonl" else ""))


@pytest.mark.parametrize("target", convert.TARGETS)
def test_every_target_holds_the_same_samples_and_can_be_converted_on(tmp_path, target):
    path = write_every_kind(tmp_path)
    settings = SourceSettings("rows", "jsonl", str(path), str(tmp_path / "media"))
    expected = content(open_source(settings))
    assert len(expected) == 9
    folder, failures = convert.convert(settings, tmp_path / "out", 3000, FailurePolicy(), target)
    written = opened(target, tmp_path / "out/rows", "rows")
    assert failures.failed == 0 and content(written) == expected
    assert [sample.turns for sample in map(written.__getitem__, range(9))] == [turns for turns, *_ in expected]
    shards = [path for path in folder.iterdir() if path.is_file() and "rows-" in path.name]
    assert len(shards) > 2 and sorted(shards)[0].name.endswith(f"-00000-of-{len(shards):05d}{'' if target == 'tfds' else f'.{target}'}")
    again = SourceSettings("again", target, str(tmp_path / "out/rows" / ("1.0.0" if target == "tfds" else "rows-*")), str(folder / "media"))
    other = "tar" if target != "tar" else "parquet"
    if target != "jsonl":
        again = SourceSettings("again", target, again.path)
    convert.convert(again, tmp_path / "out", 1 << 30, FailurePolicy(), other)
    assert content(opened(other, tmp_path / "out/again", "again")) == expected


def test_the_command_converts_what_it_recognises(tmp_path, capsys):
    write_rows(tmp_path)
    assert run(tmp_path, "--format", "tar") == 0
    assert (
        convert.main(["--input", str(tmp_path / "out/rows/*.tar"), "--output", str(tmp_path / "out"), "--name", "b", "--format", "parquet"])
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "out/rows"), str(tmp_path / "out/b")]
    assert len(open_source(SourceSettings("b", "parquet", str(tmp_path / "out/b/*.parquet")))) == 8


def test_a_shard_that_is_cut_is_left_out_by_name(tmp_path, capsys):
    write_rows(tmp_path)
    assert run(tmp_path, "--format", "tar") == 0
    (shard,) = (tmp_path / "out/rows").glob("*.tar")
    shard.write_bytes(shard.read_bytes()[:-20_000])
    capsys.readouterr()
    assert convert.main(["--input", str(shard), "--output", str(tmp_path / "out"), "--name", "b", "--max-failure-rate=0.5"]) == 0
    (entry,) = [json.loads(line) for line in (tmp_path / "out/b.skipped.jsonl").read_text().splitlines()]
    assert entry["reason"] == "broken_record" and f"{shard.name}/" in entry["message"] and "fetch the file again" in entry["message"]
