"""Pictures as a viewer shows them, beside the reference's: sizes, pixels and what is counted."""

import io
import pathlib
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, features

from data_pipelines.media import faithful, images, video
from data_pipelines.schema import Clip, Media

CASES = pathlib.Path(__file__).parents[1] / "cases"
RAMP = np.broadcast_to(np.arange(256) * 257, (64, 256))


def picture(image: Image.Image | pathlib.Path, pictures: str, format: str = "PNG", **options) -> tuple[images.Header, np.ndarray]:
    """Header and pixels, which agree in size."""
    if isinstance(image, pathlib.Path):
        data = image.read_bytes()
    else:
        file = io.BytesIO()
        image.save(file, format, **options)
        data = file.getvalue()
    media = Media("picture", data=data, pictures=pictures)
    header, pixels = images.header(media), images.decode(data, "picture", pictures)
    assert pixels.shape == (header.height, header.width, 3) == (*images.image_size(media), 3) and pixels.dtype == np.uint8
    return header, pixels


@pytest.mark.parametrize("file", ["a.png", "a.webp"])
def test_black_strokes_on_transparency(file):
    path = CASES / "black_strokes_on_transparency/media" / file
    header, pixels = picture(path, "faithful")
    black, white = (pixels == 0).all(-1).sum(), (pixels == 255).all(-1).sum()
    assert (black, white) == (400, 3696) and header.conversions == ("transparency",)
    header, pixels = picture(path, "reference")
    assert not pixels.any() and header.conversions == ("transparency",)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_half_transparent_black_is_grey_on_white(mode):
    header, pixels = picture(Image.new("RGBA", (4, 4), (0, 0, 0, 127)).convert(mode), "faithful")
    assert set(pixels.ravel().tolist()) == {128} and header.conversions == ("transparency",)


def test_a_transparent_colour_becomes_white():
    grey = np.array([[0, 9], [9, 255]], np.uint8)
    _, pixels = picture(Image.fromarray(grey), "faithful", transparency=9)
    assert pixels[..., 0].tolist() == [[0, 255], [255, 255]]
    _, pixels = picture(Image.fromarray(grey.astype(np.uint16) * 257), "faithful", transparency=9 * 257)
    assert pixels[..., 0].tolist() == [[0, 255], [255, 255]]


def ramps() -> list:
    return [
        (CASES / "sixteen_bit_grey/media/ramp.png", "PNG", "grey_16_bit"),
        (Image.fromarray(RAMP.astype(np.uint16)), "TIFF", "grey_16_bit"),
        (Image.fromarray(RAMP.astype(np.uint16)), "PPM", "grey_16_bit"),
        (Image.fromarray(RAMP.astype(np.int32)), "TIFF", "grey_32_bit"),
        (Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF", "grey_float"),
        (Image.fromarray((RAMP / 257).astype(np.float32)), "TIFF", "grey_float"),
    ]


@pytest.mark.parametrize("number", range(6))
def test_deep_greys_are_scaled_to_8_bits(number):
    image, format, kind = ramps()[number]
    header, pixels = picture(image, "faithful", format)
    assert header.conversions == (kind,)
    assert np.abs(pixels.astype(int) - np.arange(256)[:, None]).max() <= 1
    assert picture(image, "reference", format)[0].conversions == (kind,)


def test_the_reference_clips_deep_greys():
    _, pixels = picture(CASES / "sixteen_bit_grey/media/ramp.png", "reference")
    assert (pixels[:, 1:] == 255).all()


def test_greys_that_no_usual_range_holds_are_stretched_from_their_least_to_their_largest_value():
    assert faithful.to_8_bits(np.array([[-1000, 0, 1000]], np.int32)).tolist() == [[0, 128, 255]]
    assert faithful.to_8_bits(np.array([[0, 1 << 30]], np.int32)).tolist() == [[0, 255]]
    assert faithful.to_8_bits(np.array([[np.nan, 0.5, 1, -np.inf]], np.float32)).tolist() == [[0, 128, 255, 0]]
    assert faithful.to_8_bits(np.full((2, 2), -5, np.int32)).tolist() == [[0, 0], [0, 0]]
    assert faithful.to_8_bits(np.array([[0, 200]], np.int32)).tolist() == [[0, 200]]
    assert faithful.to_8_bits(np.array([[0, 200]], np.uint16), 65535).tolist() == [[0, 1]]


def test_a_photo_with_orientation():
    path = CASES / "photo_with_orientation/media/p.jpg"
    header, pixels = picture(path, "faithful")
    assert header == (80, 40, ("orientation",))
    assert (pixels[15:35, :15] > 200).all() and (pixels[45:, :] < 60).all()  # white above, black below
    red = pixels[2:8, -8:-2].astype(int)
    assert (red[..., 0] > 180).all() and (red[..., 1:] < 80).all()
    header, pixels = picture(path, "reference")
    assert header == (40, 80, ("orientation",)) and (pixels[15:35, 15:35] > 200).all()


@pytest.mark.parametrize("file", ["p.webp", "p.png"])
def test_orientation_of_webp_and_png(file):
    path = CASES / "webp_with_orientation/media" / file
    header, pixels = picture(path, "faithful")
    assert header == (40, 80, ("orientation",))
    assert (pixels[:20, :35] < 10).all() and (pixels[:20, 45:] > 245).all()
    assert (pixels[-4:, -4:, 0] > 200).all() and (pixels[-4:, -4:, 1:] < 60).all()
    assert (picture(path, "reference")[1] == pixels[::-1, ::-1]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", *(["AVIF"] if features.check("avif") else [])])
def test_every_orientation_is_that_of_pillow(orientation, format):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 100, "subsampling": "4:4:4"} if format == "AVIF" else {}
    header, pixels = picture(image, "faithful", format, exif=exif, **options)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    assert np.abs(pixels - expected).max() <= (12 if format == "AVIF" else 0)
    assert header.conversions == (("orientation",) if orientation > 1 else ())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # as the module's own filter, which pytest replaces
@pytest.mark.parametrize("exif", [b"nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12", b"Exif\0\0"])
def test_damaged_exif_data_is_no_orientation(exif):
    header, _ = picture(Image.new("RGB", (6, 4)), "faithful", "PNG", exif=exif)
    assert header == (4, 6, ())


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_picture():
    for pictures in ("faithful", "reference"):
        header, pixels = picture(CASES / "avif_picture/media/a.avif", pictures)
        assert header == (48, 64, ()) and pixels.std() > 10


def test_a_png_with_a_long_text_chunk():
    _, pixels = picture(CASES / "png_with_a_long_text_chunk/media/workflow.png", "faithful")
    assert (pixels == (10, 200, 30)).all()


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="picture policy 'pretty' is unknown: use faithful or reference"):
        images.decode(b"", "a.png", "pretty")


def clip(data: bytes | pathlib.Path, pictures: str = "faithful") -> Clip:
    return Clip((Media("clip", data=data if isinstance(data, bytes) else data.read_bytes(), pictures=pictures),))


def frames(media: Clip, indices) -> tuple[video.VideoInfo, np.ndarray]:
    info = video.probe(media)
    pixels = np.stack(list(video.read_frames(media, info, indices)))
    assert pixels.shape == (len(indices), info.height, info.width, 3)
    return info, pixels


def test_a_phone_clip_turned_90():
    path = CASES / "phone_clip_turned_90/media/r.mp4"
    info, pixels = frames(clip(path), [0, 10])
    assert (info.height, info.width, info.conversions) == (96, 64, ("rotation",))
    assert (pixels[:, :44] > 200).all() and (pixels[:, -44:] < 60).all()
    info, pixels = frames(clip(path, "reference"), [0, 10])
    assert (info.height, info.width, info.conversions) == (64, 96, ("rotation",))
    assert (pixels[:, :, :44] > 200).all()


@pytest.mark.parametrize(
    ("matrix", "exif"),
    [
        ((-1, 0, 0, 1), 2),
        ((-1, 0, 0, -1), 3),
        ((1, 0, 0, -1), 4),
        ((0, 1, 1, 0), 5),
        ((0, 1, -1, 0), 6),
        ((0, -1, -1, 0), 7),
        ((0, -1, 1, 0), 8),
    ],
)
def test_a_display_matrix_moves_points(matrix, exif):
    """Against the definition: the point (x, y) is shown at (a x + c y, b x + d y), up to a shift."""
    a, b, c, d = (65536 * value for value in matrix)
    orientation = faithful.display_orientation(struct.pack("=9i", a, b, 0, c, d, 0, 7, 7, 1 << 30))
    stored = np.arange(12).reshape(3, 4)
    places = {(matrix[1] * x + matrix[3] * y, matrix[0] * x + matrix[2] * y): stored[y, x] for y in range(3) for x in range(4)}
    expected = [places[place] for place in sorted(places)]
    assert orientation.turn(stored).ravel().tolist() == expected
    image = Image.fromarray(stored.astype(np.uint8))
    image.getexif()[ExifTags.Base.Orientation] = exif
    assert (np.asarray(ImageOps.exif_transpose(image)) == orientation.turn(stored)).all()


def test_no_display_matrix_is_upright():
    assert faithful.display_orientation(None) == faithful.display_orientation(b"short") == faithful.UPRIGHT


def write_clip(format: str, codec: str, count: int, draw, aspect: Fraction | None = None, pixels: str = "yuv420p", **options) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=10, options={name: str(value) for name, value in options.items()})
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for number in range(count):
            content = draw(number)
            frame = av.VideoFrame.from_ndarray(content, format="rgba" if content.shape[-1] == 4 else "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def brightening(number: int) -> np.ndarray:
    return np.full((64, 96, 3), 6 * number, np.uint8)


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(3, 2), (64, 144)), (Fraction(2, 3), (96, 96))])
def test_pixels_that_are_not_square(aspect, size):
    data = write_clip("mp4", "libx264", 5, brightening, aspect)
    info, pixels = frames(clip(data), [0, 4])
    assert (info.height, info.width) == size and info.conversions == ("pixel_aspect",)
    assert np.abs(pixels[1].astype(int) - 24).max() <= 3
    info = video.probe(clip(data, "reference"))
    assert (info.height, info.width) == (64, 96) and info.conversions == ("pixel_aspect",)


def test_a_transparent_clip_is_shown_on_white():
    data = write_clip("mov", "png", 3, lambda _: np.zeros((64, 96, 4), np.uint8), pixels="rgba")
    info, pixels = frames(clip(data), [0, 1])
    assert (pixels == 255).all() and info.conversions == ("transparency",)
    assert not frames(clip(data, "reference"), [0])[1].any()


def greys(media: Media, indices) -> np.ndarray:
    return frames(media, indices)[1].mean(axis=(1, 2, 3))


def test_an_avi_with_b_frames():
    media = clip(CASES / "avi_with_b_frames/media/b.avi")
    indices = [4, 8, 13, 17, 22, 26, 31, 35]
    assert video.timestamps(video.probe(media), indices) == [0.4, 0.8, 1.3, 1.7, 2.2, 2.6, 3.1, 3.5]
    np.testing.assert_allclose(greys(media, indices) / 6, indices, atol=0.7)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("mpeg4", {"bf": 2, "g": 12}),
        ("mpeg2video", {"bf": 2}),
        ("libx264", {"bf": 3, "b_strategy": 0}),
        ("libx264", {"bf": 8, "g": 16, "preset": "veryslow"}),
        ("libx264", {"bf": 0}),
    ],
)
def test_every_frame_of_an_avi_is_found_whatever_the_order_of_its_packets(codec, options, monkeypatch):
    monkeypatch.setattr(video, "SEEK_SECONDS", 0.5)
    media = clip(write_clip("avi", codec, 40, brightening, **options))
    np.testing.assert_allclose(greys(media, range(40)) / 6, range(40), atol=0.9)
    np.testing.assert_allclose(greys(media, [3, 25, 38]) / 6, [3, 25, 38], atol=0.9)


@pytest.mark.parametrize("case", ["clip_with_cover_picture_first", "clip_with_png_cover_first"])
def test_a_cover_picture_is_not_the_clip(case):
    media = clip(CASES / case / "media/cover.mp4")
    info = video.probe(media)
    assert info == video.VideoInfo(4.0, 10.0, 40, 64, 96)
    np.testing.assert_allclose(greys(media, [0, 13, 39]) / 4, [0, 13, 39], atol=0.6)


@pytest.mark.parametrize("file", ["clip_as_gif/media/a.gif", "clip_as_webp/media/a.webp"])
def test_an_animation_is_a_clip(file):
    media = clip(CASES / file)
    info = video.probe(media)
    assert (info.duration, info.rate, info.frames, info.height, info.width) == (2.0, 10.0, 20, 64, 96)
    np.testing.assert_allclose(greys(media, range(20)) / 12, range(20), atol=0.2)
