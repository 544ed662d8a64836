import io
import json
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_pipelines.media import images, sizes
from data_pipelines.schema import Media, PhaseSettings, SampleError

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "preprocess"
SINGLE = [("", case) for case in json.loads((GOLDEN / "images.json").read_text())]
MODES = [("modes", case) for case in json.loads((GOLDEN / "modes" / "modes.json").read_text())]
PHASE = PhaseSettings("test", 1, 4096, 1024, 8, 8, 1024, 4096, 8, (1.0, 4.0), 2048, {})


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def size_and_pixels(media: Media) -> tuple[tuple[int, int], np.ndarray]:
    return images.image_size(media), images.decode(images.read_bytes(media), media.name, media.pictures)


@pytest.mark.parametrize(("folder", "case"), SINGLE + MODES, ids=lambda value: value["file"] if isinstance(value, dict) else value)
def test_pixels_equal_the_reference(folder, case):
    path = GOLDEN / folder / case["file"]
    size, pixels = size_and_pixels(Media(case["file"], path, pictures="reference"))
    assert pixels.shape == (*size, 3)
    height, width = sizes.smart_resize([size], case["min_pixels"], case["max_pixels"])[0].tolist()
    assert [height, width] == case["resized_hw"]
    golden = np.load(f"{path}.npz" if folder else path.with_suffix(".npz"))
    np.testing.assert_array_equal(images.resize(pixels, height, width, "exact"), golden["resized"])


@pytest.mark.parametrize(("folder", "case"), SINGLE, ids=lambda value: value["file"] if isinstance(value, dict) else value)
def test_normalised_visual_tokens_equal_the_reference_bit_for_bit(folder, case):
    golden = np.load((GOLDEN / case["file"]).with_suffix(".npz"))
    tokens = images.to_visual_tokens(golden["resized"])
    assert tokens.shape == (case["tokens"], 3072) and tokens.dtype == np.uint8
    normalised = images.normalisation_table()[tokens.reshape(-1, 3), np.arange(3)]
    rows, columns = (side // 2 for side in case["grid_hw"])
    patches = normalised.reshape(rows, columns, 2, 16, 2, 16, 3).transpose(0, 2, 1, 4, 6, 3, 5).reshape(-1, 768)
    assert patches.dtype == np.float32
    np.testing.assert_array_equal(patches, golden["patches"])


def test_a_visual_token_is_the_block_at_its_row_and_column():
    image = noise(64, 96)
    tokens = images.to_visual_tokens(image)
    np.testing.assert_array_equal(tokens[4].reshape(32, 32, 3), image[32:64, 32:64])


@pytest.mark.parametrize("file", ["smart_resize.npy", "smart_resize_extremes.npy"])
def test_sizes_equal_the_reference(file):
    rows = np.load(GOLDEN / file)
    np.testing.assert_array_equal(sizes.smart_resize(rows[:, :2], rows[:, 2], rows[:, 3]), rows[:, 4:])
    one = rows[0]
    np.testing.assert_array_equal(sizes.smart_resize(one[:2], one[2], one[3]), [one[4:]])


def test_a_size_that_rounds_to_exactly_the_limit_is_kept():
    assert sizes.smart_resize([[100, 165], [100, 165]], 1024, [96 * 160, 96 * 160 - 1]).tolist() == [[96, 160], [96, 128]]
    assert sizes.smart_resize([[92, 155], [92, 155]], [96 * 160, 96 * 160 + 1], 10**6).tolist() == [[96, 160], [96, 192]]


def test_smart_resize_of_no_images():
    assert sizes.smart_resize(np.zeros((0, 2)), 1024, 4096).shape == (0, 2)


def test_images_of_a_sample_share_twice_the_budget_of_one():
    assert sizes.image_limits([1, 2, 3, 7, 8, 100], PHASE).tolist() == [4096, 4096, 2730, 1170, 1024, 1024]
    assert int(sizes.image_limits(4, PHASE)) == 2048


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 192), (320, 256)])
def test_fast_resize_stays_near_the_exact_one(height, width):
    smooth = np.asarray(Image.fromarray(noise(9, 12)).resize((400, 300), Image.Resampling.BICUBIC))
    exact, fast = (images.resize(smooth, height, width, mode).astype(int) for mode in ("exact", "fast"))
    assert exact.shape == fast.shape == (height, width, 3)
    assert np.abs(exact - fast).mean() < 4


def test_fast_resize_does_not_alias_when_shrinking_much():
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::4] = 255
    assert images.resize(stripes, 64, 64, "fast").std() < 1


def photo(height, width):
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 37) + np.cos(y / 23), np.sin((x + y) / 51), np.cos(x / 91 - y / 13)], -1) * 60 + 128
    return np.clip(waves + np.random.default_rng(0).normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"quality": 30}, {"subsampling": 0}, {"subsampling": 1, "progressive": True}, {"keep_rgb": True}], ids=str
)
def test_jpegs_have_pillows_pixels(mode, options):
    for height, width in ((1, 1), (8, 8), (17, 33), (101, 100), (256, 384)):
        data = encoded(Image.fromarray(photo(height, width)).convert(mode), "JPEG", **(options if mode == "RGB" else {}))
        wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        for pictures in ("faithful", "reference"):
            np.testing.assert_array_equal(images.decode(data, "a.jpg", pictures), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_jpegs_are_decoded_to_part_of_their_size(orientation):
    """As much smaller as leaves what will be made of them; turned; near to the whole picture made smaller."""
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(Image.fromarray(photo(800, 1200)), "JPEG", quality=92, exif=exif)
    whole = images.decode(data, "a.jpg")
    height, width, _ = whole.shape
    for shrunk, eighths in ((1, 8), (1.9, 8), (2, 4), (2.6, 4), (2.7, 3), (4, 2), (9, 1)):
        target = int(height / shrunk), int(width / shrunk)
        part = images.decode(data, "a.jpg", at_least=target)
        assert part.shape == (height * eighths // 8, width * eighths // 8, 3)
        near = np.abs(images.resize(part, *target, "fast").astype(int) - images.resize(whole, *target, "fast")).mean()
        assert near < 3.5, (shrunk, near)


def test_resize_refuses_an_unknown_mode():
    with pytest.raises(ValueError, match="nearest"):
        images.resize(noise(8, 8), 32, 32, "nearest")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats_from_path_and_from_bytes(format, tmp_path):
    data = encoded(Image.fromarray(noise(40, 50)), format)
    (tmp_path / "picture").write_bytes(data)
    size, from_path = size_and_pixels(Media("picture", str(tmp_path / "picture")))
    assert size == (40, 50)
    _, from_bytes = size_and_pixels(Media("picture", data=data))
    np.testing.assert_array_equal(from_path, from_bytes)


def test_size_comes_from_the_header_alone():
    data = encoded(Image.fromarray(noise(300, 400)), "PNG")
    assert images.image_size(Media("cut.png", data=data[:200])) == (300, 400)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_truncated_file(format):
    data = encoded(Image.fromarray(noise(300, 400)), format)
    with pytest.raises(SampleError, match=r"cut\.file") as caught:
        images.decode(data[: len(data) // 2], "cut.file")
    assert caught.value.reason in ("truncated", "not_an_image")
    assert caught.value.reason == "truncated" or format == "WEBP"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty_file"), (b"this is no picture", "not_an_image"), (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image")],
)
@pytest.mark.parametrize("use", [images.image_size, lambda media: images.decode(images.read_bytes(media), media.name)])
def test_files_that_are_no_images(content, reason, use, tmp_path):
    (tmp_path / "a.jpg").write_bytes(content)
    for media in (Media("a.jpg", str(tmp_path / "a.jpg")), Media("a.jpg", data=content)):
        with pytest.raises(SampleError, match=r"a\.jpg") as caught:
            use(media)
        assert caught.value.reason == reason


def test_missing_file_and_folder(tmp_path):
    for path, reason in ((tmp_path / "none.png", "missing_file"), (tmp_path, "unreadable_file")):
        for use in (images.image_size, images.read_bytes):
            with pytest.raises(SampleError, match="written-name") as caught:
                use(Media("written-name", str(path)))
            assert caught.value.reason == reason


def png_header(height: int, width: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\x00\x00\x00\x00IDAT"


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")  # not those of what other tests left to the garbage collector
@pytest.mark.parametrize("side", [9_500, 60_000])
def test_decompression_bomb(side):
    bomb = png_header(side, side)
    for use in (lambda: images.image_size(Media("bomb.png", data=bomb)), lambda: images.decode(bomb, "bomb.png")):
        with pytest.raises(SampleError, match=r"bomb\.png: \d+ x \d+ pixels .*store it smaller") as caught:
            use()
        assert caught.value.reason == "bomb"
    assert images.image_size(Media("large.png", data=png_header(9_000, 9_000))) == (9_000, 9_000)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunks(*chunks: bytes, behind: bool = False) -> bytes:
    """A PNG of 2 x 2 pixels with chunks in front of its pixels, or behind them."""
    data = encoded(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG")
    place = data.index(b"IEND") - 4 if behind else data.index(b"IDAT") - 4
    return data[:place] + b"".join(chunks) + data[place:]


def text_chunk(size: int) -> bytes:
    return chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b" " * size))


@pytest.mark.parametrize("behind", [False, True])
def test_text_and_colour_profiles_of_some_megabytes_are_no_reason_to_refuse(behind):
    profile = [] if behind else [chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(5 << 20)))]
    data = with_chunks(text_chunk(8 << 20), *profile, behind=behind)
    assert images.decode(data, "a.png").tolist() == [[[1, 2, 3]] * 2] * 2


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(("chunks", "size"), [(1, 64 << 20), (6, 15 << 20)])
def test_text_that_expands_without_end_is_refused(chunks, size, behind):
    with pytest.raises(SampleError, match=r"a\.png.*without metadata") as caught:
        images.decode(with_chunks(*[text_chunk(size)] * chunks, behind=behind), "a.png")
    assert caught.value.reason == "bomb"


@pytest.mark.parametrize(("first", "format"), [(b"\0\0\0\x1cftypheic", "HEIC"), (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL")])
def test_known_formats_that_cannot_be_read_are_named(first, format):
    with pytest.raises(SampleError, match=f"a.jpg: {format} cannot be read here: convert it to PNG") as caught:
        images.image_size(Media("a.jpg", data=first + bytes(64)))
    assert caught.value.reason == "not_an_image"


def test_avif_is_refused_by_name_where_pillow_cannot_read_it(monkeypatch):
    monkeypatch.setattr(images, "FORMATS", tuple(name for name in images.FORMATS if name != "AVIF"))
    path = pathlib.Path(__file__).parents[1] / "cases/avif_picture/media/a.avif"
    with pytest.raises(SampleError, match=r"a\.avif: AVIF cannot be read here: convert it to PNG, JPEG or WebP"):
        images.image_size(Media("a.avif", str(path)))


def test_aspect_ratio_above_200_is_refused_and_200_is_not():
    with pytest.raises(SampleError, match="200") as caught:
        images.image_size(Media("long.png", data=encoded(Image.new("L", (402, 2)), "PNG")))
    assert caught.value.reason == "aspect_ratio"
    assert images.image_size(Media("long.png", data=encoded(Image.new("L", (400, 2)), "PNG"))) == (2, 400)
