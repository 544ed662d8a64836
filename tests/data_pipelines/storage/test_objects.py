"""Objects of a real S3-compatible server, and of one that refuses, fails, is slow or breaks off."""

import gzip
import io
import json
import sys
import tarfile

import numpy as np
import pyarrow
import pytest
import small_corpus
import stores
from pyarrow import parquet

from data_pipelines.index.measures import inspect
from data_pipelines.media.images import read_bytes
from data_pipelines.schema import DataError, Media, SampleError, SourceSettings
from data_pipelines.sources import open_source
from data_pipelines.storage import gcs, objects, s3
from data_pipelines.storage.files import Part, Whole, blocks, open_file, read_many
from data_pipelines.storage.interface import StorageError
from data_pipelines.storage.patterns import expand


@pytest.fixture(scope="module")
def server():
    with stores.s3_server() as store:
        yield store


@pytest.fixture
def store(server, monkeypatch):
    with stores.client_of(server.endpoint, monkeypatch):
        yield server


@pytest.fixture
def bad(monkeypatch):
    server = stores.Misbehaving()
    for module in (s3, gcs):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    with stores.client_of(server.endpoint, monkeypatch):
        yield server
    server.close()


def test_an_object_is_read_like_a_file(store):
    content = np.random.default_rng(0).bytes(300_000)
    address = store.upload("files/a b+\u00e9.bin", content)
    file = open_file(address)
    assert (file.size, file.read(299_990, 10), file.read(5, 0)) == (300_000, content[-10:], b"")
    assert file.modified > 0
    assert b"".join(blocks(file, 100_000)) == Whole(address).read() == content
    assert read_many([Part(file, start, 100) for start in range(0, 4000, 100)]) == [content[n : n + 100] for n in range(0, 4000, 100)]
    with Whole(address).open() as stream:
        assert stream.seek(-5, io.SEEK_END) == 299_995 and stream.read() == content[-5:]
    with pytest.raises(StorageError, match="ends at byte 300,000, 1 bytes early"):
        file.read(299_999, 2)


def test_patterns_in_a_store(store):
    for name in ("p/s-1.tar", "p/s-0.tar", "p/q/s-2.tar", "p/x.json"):
        store.upload(name, b"")
    assert expand("s3://bucket/p/s-*.tar") == ["s3://bucket/p/s-0.tar", "s3://bucket/p/s-1.tar"]
    assert expand("s3://bucket/p/s-{1..0}.tar") == ["s3://bucket/p/s-{1..0}.tar"]
    assert expand("s3://bucket/p/{x.json,**/s-2.tar}") == ["s3://bucket/p/x.json", "s3://bucket/p/q/s-2.tar"]
    with pytest.raises(StorageError, match=r"s3://bucket/n\* matches no file"):
        expand("s3://bucket/n*")


def picture(tmp_path):
    small_corpus.write_image(tmp_path / "a.png", 40, 50)
    return (tmp_path / "a.png").read_bytes()


def shard(format, image):
    row = {"text": "a caption"}
    if format == "tar":
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as archive:
            for name, data in (("0.txt", b"a caption"), ("0.png", image)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return sink.getvalue()
    if format == "parquet":
        table = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_pylist([row | {"image": {"bytes": image, "path": "a.png"}}]), table)
        return table.getvalue().to_pybytes()
    return gzip.compress(json.dumps(row | {"image": "a.png"}).encode(), mtime=0)


@pytest.mark.parametrize("format", ["jsonl", "tar", "parquet"])
def test_sources_and_media_in_a_store(store, tmp_path, format):
    image = picture(tmp_path)
    names = [store.upload(f"{format}/{name}/s", shard(format, image)) for name in "ab"]
    store.upload("media/a.png", image)
    source = open_source(SourceSettings("rows", format, f"s3://bucket/{format}/*/s", "s3://bucket/media"), tmp_path / "tables")
    assert [source.key(1)[:3], len(source)] == ["b/s", len(names)]
    assert inspect(source[1], small_corpus.tokenizer()).sizes == [(40, 50)]
    (tmp_path / "local").mkdir()
    for folder in "ab":
        (tmp_path / "local" / folder).mkdir()
        (tmp_path / "local" / folder / "s").write_bytes(shard(format, image))
    local = open_source(SourceSettings("rows", format, str(tmp_path / "local/{a,b}/s"), str(tmp_path)))
    assert small_corpus.identities(local) == small_corpus.identities(source)  # the same data wherever it lies


def test_a_folder_in_a_store(store, tmp_path):
    image = picture(tmp_path)
    store.upload("folder/x/0.png", image)
    store.upload("folder/x/0.txt", b"a caption")
    source = open_source(SourceSettings("rows", "folder", "s3://bucket/folder"), tmp_path / "tables")
    assert source.key(0) == "folder/x/0" and source[0].turns[1].text == "a caption"
    assert inspect(source[0], small_corpus.tokenizer()).sizes == [(40, 50)]
    store.upload("folder/metadata.jsonl", json.dumps({"file_name": "x/0.png", "text": "a row"}).encode())
    source = open_source(SourceSettings("rows", "folder", "s3://bucket/folder/"), tmp_path / "tables")
    assert source[0].turns[1].text == "a row" and inspect(source[0], small_corpus.tokenizer()).sizes == [(40, 50)]


def test_media_in_a_store_that_are_missing_or_escape(store, tmp_path):
    rows = [{"text": "x", "image": name} for name in ("none.png", "../a.png", "/b.png", "s3://bucket/media/a.png")]
    path = small_corpus.write_jsonl(tmp_path / "rows.jsonl", rows)
    source = open_source(SourceSettings("rows", "jsonl", str(path), "s3://bucket/media"))
    reasons = []
    for number in range(len(source)):
        with pytest.raises(SampleError) as caught:
            inspect(source[number], small_corpus.tokenizer())
        reasons.append(caught.value.reason)
    assert reasons == ["missing_file", "path_escapes_root", "path_escapes_root", "web_address"]


SCHEMES = pytest.mark.parametrize("scheme", ["s3", "gs"])


@SCHEMES
@pytest.mark.parametrize(
    ("key", "reason", "message", "attempts"),
    [
        ("403", "unreadable_file", "the store refuses access .*: give credentials that may read it", 1),
        ("404", "missing_file", "the store has no such object; check bucket and name", 1),
        ("500", "unreadable_file", "the store failed 5 times .*500.*: it may be overloaded", 5),
        ("503", "unreadable_file", "the store failed 5 times .*503", 5),
    ],
)
def test_stores_that_refuse_to_open(bad, scheme, key, reason, message, attempts):
    with pytest.raises(StorageError, match=f"^{scheme}://bucket/{key}/x: {message}") as caught:
        open_file(f"{scheme}://bucket/{key}/x")
    assert caught.value.reason == reason and bad.requests[f"{key}/x", "about"] in (attempts, 2 * attempts)
    if key != "404":
        with pytest.raises(StorageError, match=f"^{scheme}://bucket/{key}/.*: .*store (refuses access|failed)"):
            expand(f"{scheme}://bucket/{key}/*")


@SCHEMES
@pytest.mark.parametrize(
    ("key", "reason", "message", "attempts"),
    [
        ("get403", "unreadable_file", "refuses access", 1),
        ("get404", "missing_file", "no such object", 1),
        ("get500", "unreadable_file", "failed 5 times", 5),
        ("half", "unreadable_file", "failed 5 times", 5),
    ],
)
def test_stores_that_fail_while_they_are_read(bad, scheme, key, reason, message, attempts):
    file = open_file(f"{scheme}://bucket/{key}/x")
    with pytest.raises(StorageError, match=f"^{scheme}://bucket/{key}/x: .*{message}") as caught:
        file.read(10, 100)
    assert caught.value.reason == reason and bad.requests[f"{key}/x", "content"] == attempts


@SCHEMES
@pytest.mark.parametrize("key", ["once500", "once503", "oncehalf"])
def test_a_passing_failure_is_not_seen(bad, scheme, key):
    file = open_file(f"{scheme}://bucket/{key}/x")
    assert (file.size, file.read(10, 100)) == (1000, bad.content[10:110])
    assert bad.requests[f"{key}/x", "content"] == 2


@SCHEMES
def test_a_slow_store_is_given_up(bad, monkeypatch, scheme):
    monkeypatch.setattr(objects, "ATTEMPTS", 2)
    file = open_file(f"{scheme}://bucket/slow/x")
    with pytest.raises(StorageError, match=r"failed 2 times .*[Tt]imeout"):
        file.read(0, 10)
    assert bad.requests["slow/x", "content"] == 2


def test_objects_of_googles_store(bad):
    file = open_file("gs://bucket/fine/a b")
    assert (file.size, file.modified, file.read(990, 10), Whole(file.address).read()) == (1000, 7, bad.content[990:], bad.content)
    assert expand("gs://bucket/fine/*") == ["gs://bucket/fine/0"]


def test_a_client_that_is_not_installed_is_named(monkeypatch):
    objects.client.cache_clear()
    monkeypatch.setitem(sys.modules, "data_pipelines.storage.gcs", None)
    with pytest.raises(
        StorageError, match=r"gs://bucket is read with gcsfs, which is not installed .*: pip install -r requirements-cloud.txt"
    ):
        open_file("gs://bucket/x")


def test_pauses_grow(monkeypatch):
    pauses = []
    monkeypatch.setattr(objects, "pause", pauses.append)
    monkeypatch.setattr(objects.random, "uniform", lambda low, high: 1.0)
    monkeypatch.setattr(objects, "FIRST_PAUSE_SECONDS", 0.5)

    def fail():
        raise OSError("no")

    with pytest.raises(StorageError, match="failed 5 times"):
        objects.attempt("s3://bucket/x", fail)
    assert pauses == [0.5, 1, 2, 4]


def test_a_source_in_a_store_that_refuses_is_one_sentence(bad, tmp_path):
    with pytest.raises(DataError, match=r"^source 'rows': s3://bucket/403/x: the store refuses access"):
        open_source(SourceSettings("rows", "tar", "s3://bucket/403/x"))


def test_media_of_a_store_that_fails_are_skipped_by_name(bad, tmp_path):
    path = small_corpus.write_jsonl(tmp_path / "rows.jsonl", [{"text": "x", "image": name} for name in ("get500", "half", "404")])
    rows = [{"text": "x", "video": f"{kind}/x.mp4"} for kind in ("half", "get403")]
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(SourceSettings("rows", "jsonl", str(path), "s3://bucket/"))
    found = []
    for number in range(5):
        with pytest.raises(SampleError) as caught:
            inspect(source[number], small_corpus.tokenizer())
        found.append((caught.value.reason, str(caught.value).split(":")[0]))
    assert found == [
        ("unreadable_file", "get500"),
        ("unreadable_file", "half"),
        ("missing_file", "404"),
        ("unreadable_file", "half/x.mp4"),
        ("unreadable_file", "get403/x.mp4"),
    ]


@SCHEMES
def test_a_file_of_a_store_is_read_in_one_request(bad, scheme):
    assert read_bytes(Media("x", stored=Whole(f"{scheme}://bucket/fine/x"))) == bad.content
    assert bad.requests["fine/x", "content"] == 1
