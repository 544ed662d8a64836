"""Files under a medium's name that are something else: the message says what, and what to do."""

import pytest

from data_pipelines.media import images, video
from data_pipelines.media.impostors import HEAD_BYTES, describe
from data_pipelines.schema import Clip, Media, SampleError

PAGE = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>"
IMPOSTORS = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n": r"a Git LFS pointer and not the file itself: .*git lfs pull",
    PAGE: r"HTML or XML \(it begins with '<!DOCTYPE html>.*: fetch the file again",
    b"\xef\xbb\xbf" + PAGE: "HTML or XML",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>": "an SVG drawing: convert it to PNG",
    b"<?xml version='1.0'?>\n<!-- drawn by hand -->\n<svg width='3'></svg>": "an SVG drawing",
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": "HTML or XML",
    b'{"error": "not found"}': "JSON .*such as the error message of a download",
    b"Not found": "text .*such as the error message of a download",
    ("\u00e9" * HEAD_BYTES).encode(): "text",
    b"PK\x03\x04\x14\0\0\0": "a zip archive: unpack it",
    b"\x1f\x8b\x08\0": "compressed with gzip: unpack it",
    b"%PDF-1.7\n": "a PDF document",
}


@pytest.mark.parametrize("content", IMPOSTORS, ids=range(len(IMPOSTORS)))
def test_a_file_that_is_no_picture_or_clip_is_named(content: bytes) -> None:
    with pytest.raises(SampleError, match=rf"a\.jpg: not an image but {IMPOSTORS[content]}") as caught:
        images.image_size(Media("a.jpg", data=content))
    assert caught.value.reason == "not_an_image"
    with pytest.raises(SampleError, match=rf"a\.mp4: not a clip but {IMPOSTORS[content]}") as caught:
        video.probe(Clip((Media("a.mp4", data=content),)))
    assert caught.value.reason == "broken_video"


@pytest.mark.parametrize("head", [b"", b"\0\0\0\x18ftypmp42", bytes(range(256)), b"\x89PNG\r\n\x1a\n"])
def test_other_bytes_tell_nothing(head: bytes) -> None:
    assert describe(head) is None
