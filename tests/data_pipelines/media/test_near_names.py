"""A missing file's message tells the name that differs in case alone."""

import pytest

from data_pipelines.media.images import image_size
from data_pipelines.schema import Media, SampleError


def test_a_name_in_another_case_is_told(tmp_path):
    (tmp_path / "Photo_1.JPG").write_bytes(b"x")
    for name, told in (
        ("photo_1.jpg", "the folder has 'Photo_1.JPG', whose letters differ in case: rename one"),
        ("photo_2.jpg", "no such file"),
    ):
        with pytest.raises(SampleError, match="no such file") as caught:
            image_size(Media(name, str(tmp_path / name)))
        assert caught.value.reason == "missing_file" and told in str(caught.value)
        assert ("differ in case" in str(caught.value)) == (name == "photo_1.jpg")
    with pytest.raises(SampleError, match="no such file"):
        image_size(Media("a.png", str(tmp_path / "none" / "a.png")))
