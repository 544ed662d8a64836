import io
import json
import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest

from data_pipelines.media import sizes, video
from data_pipelines.schema import Clip, Media, PhaseSettings, SampleError
from data_pipelines.text import video as video_text

PROMPTS = json.loads((pathlib.Path(__file__).parents[2] / "golden" / "video" / "prompts.json").read_text())
PHASE = PhaseSettings("test", 1, 4096, 1024, 128, 8, 1024, 65536, 64, (1.0, 4.0), 16384, {})


def picture(number: int, height: int, width: int) -> np.ndarray:
    """The number in eight bits, as dark and bright stripes."""
    bits = np.array([number >> bit & 1 for bit in range(8)])
    return np.broadcast_to((30 + 190 * np.repeat(bits, width // 8))[:, None], (height, width, 3)).astype(np.uint8)


def write_clip(frames, rate=25, format="mp4", codec="libx264", times=None, start=0, file=None, size=(64, 96), draw=picture) -> bytes:
    """Frame i shows draw(i, *size). `times` (hundredths of a second) make the rate variable."""
    target = file or io.BytesIO()
    with av.open(target, "w", format=format, options={"movflags": "faststart"} if file else {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(index, *size), format="rgb24")
            frame.pts = index + start if times is None else times[index]
            if times is not None:
                frame.time_base = Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return pathlib.Path(file).read_bytes() if file else target.getvalue()


def clip(data: bytes) -> Clip:
    return Clip((Media("clip.mp4", data=data),))


def shown(media: Clip, indices) -> list[int]:
    """The number that each read frame shows."""
    numbers = []
    for frame in video.read_frames(media, video.probe(media), indices):
        assert frame.shape == (64, 96, 3) and frame.dtype == np.uint8
        stripes = frame.reshape(64, 8, 12, 3).mean(axis=(0, 2, 3))
        numbers.append(int(((stripes > 125) << np.arange(8)).sum()))
    return numbers


@pytest.mark.parametrize("golden", PROMPTS, ids=lambda golden: str(golden["frames_in_file"]))
def test_prefix_and_marks_equal_the_reference(golden):
    info = video.VideoInfo(golden["frames_in_file"] / golden["fps"], golden["fps"], golden["frames_in_file"], 64, 64)
    assert video_text.prefix(info, golden["indices"]) == golden["prefix"]
    assert [video_text.mark(seconds) for seconds in video.timestamps(info, golden["indices"])] == golden["marks"]


@pytest.mark.parametrize("golden", PROMPTS, ids=lambda golden: str(golden["frames_in_file"]))
def test_indices_equal_the_reference(golden):
    info = video.VideoInfo(golden["frames_in_file"] / golden["fps"], golden["fps"], golden["frames_in_file"], 64, 64)
    count = len(golden["indices"])
    rate = (count + 0.5) / info.duration
    phase = PhaseSettings("test", 1, 1, 1, 1, 1, 1, 1, 128, (rate, rate), 1, {})
    assert video.choose_frames(info, phase, 0).tolist() == golden["indices"]


def test_marks_never_show_sixty_seconds():
    assert [video_text.mark(seconds) for seconds in (59.994, 59.996, 119.999, 3600.0)] == [
        f"[{time}]:<image>\n" for time in ("00:59.99", "01:00.00", "02:00.00", "60:00.00")
    ]


def test_frames_are_chosen_by_the_seed_within_the_limits():
    info = video.VideoInfo(10.0, 25.0, 250, 64, 64)
    choices = [video.choose_frames(info, PHASE, seed) for seed in range(200)]
    counts = [len(indices) for indices in choices]
    assert min(counts) in (10, 11) and max(counts) in (38, 39) and abs(np.mean(counts) - 24.5) < 2.5
    for indices in choices:
        assert indices[0] >= 0 and indices[-1] < 250 and (np.diff(indices) > 0).all()
    np.testing.assert_array_equal(video.choose_frames(info, PHASE, 2**64 - 1), video.choose_frames(info, PHASE, 2**64 - 1))


@pytest.mark.parametrize(
    ("info", "counts"),
    [
        (video.VideoInfo(100.0, 25.0, 2500, 64, 64), {64}),  # phase.frames
        (video.VideoInfo(0.2, 25.0, 5, 64, 64), {1}),  # at least one
        (video.VideoInfo(20.0, 0.5, 10, 64, 64), {10}),  # slower than the lowest rate: every frame
        (video.VideoInfo(10.0, 2.0, 20, 64, 64), set(range(10, 21))),  # capped by the clip's own rate
    ],
)
def test_number_of_frames(info, counts):
    for seed in range(30):
        indices = video.choose_frames(info, PHASE, seed)
        assert len(indices) in counts and len(set(indices.tolist())) == len(indices)


def test_a_phase_without_frames_refuses_videos():
    phase = PhaseSettings("images", 1, 1, 1, 1, 1, 1, 1, 0, (1.0, 4.0), 1, {})
    with pytest.raises(SampleError, match="phase images") as caught:
        video.choose_frames(video.VideoInfo(1.0, 8.0, 8, 64, 64), phase, 0)
    assert caught.value.reason == "no_frames"


def test_pixels_of_a_frame():
    # up to four frames: what images share of max_pixels = 65536; more: at most frame_pixels = 16384
    assert sizes.frame_limits((1, 2, 4, 5, 8, 16, 128), PHASE).tolist() == [65536, 65536, 32768, 16384, 16384, 8192, 1024]


@pytest.mark.parametrize(
    ("format", "codec"),
    [("mp4", "libx264"), ("mov", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4"), ("mpegts", "libx264")],
)
def test_constant_rate(format, codec):
    media = clip(write_clip(40, 25, format, codec))
    info = video.probe(media)
    assert (info.frames, info.height, info.width) == (40, 64, 96)
    assert info.duration == pytest.approx(1.6, abs=0.01) and info.rate == pytest.approx(25, rel=0.005)
    indices = [0, 1, 13, 14, 20, 38, 39]
    assert shown(media, indices) == indices


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(8), Fraction(60)])
@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_every_frame_is_found(rate, format):
    assert shown(clip(write_clip(50, rate, format)), range(50)) == list(range(50))


def test_a_clip_that_does_not_start_at_zero():
    assert shown(clip(write_clip(30, 25, "mpegts", start=500)), [0, 7, 29]) == [0, 7, 29]


@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts"])
def test_jumps_find_the_same_frames(format, monkeypatch):
    media = clip(write_clip(180, 6, format))
    indices = [1, 60, 61, 130, 179]
    assert shown(media, indices) == indices
    monkeypatch.setattr(video, "SEEK_SECONDS", float("inf"))
    assert shown(media, indices) == indices


def test_variable_rate_is_read_by_time():
    times = [0, 10, 20, 30, 100, 110, 200, 300, 310, 320]
    media = clip(write_clip(10, 10, times=times))
    info = video.probe(media)
    assert info.frames == 10 and info.duration == pytest.approx(3.3, abs=0.02)
    seconds = video.timestamps(info, range(10))
    expected = [max(i for i, time in enumerate(times) if time / 100 <= moment + 1e-3) for moment in seconds]
    assert expected != list(range(10))
    assert shown(media, range(10)) == expected


def test_path_and_bytes_are_the_same(tmp_path):
    data = write_clip(12, 8)
    (tmp_path / "clip.mp4").write_bytes(data)
    media = Clip((Media("clip.mp4", str(tmp_path / "clip.mp4")),))
    assert video.probe(media) == video.probe(clip(data))
    assert shown(media, [0, 5, 11]) == [0, 5, 11]


@pytest.mark.parametrize("content", [b"hello" * 100, b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n"])
def test_files_that_are_no_videos(content):
    with pytest.raises(SampleError, match=r"clip\.mp4") as caught:
        video.probe(clip(content))
    assert caught.value.reason == "broken_video"


def test_a_playlist_does_not_open_other_files(tmp_path):
    (tmp_path / "secret.ts").write_bytes(write_clip(20, 10, "mpegts"))
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(SampleError) as caught:
        video.probe(Clip((Media("list.m3u8", str(tmp_path / "list.m3u8")),)))
    assert caught.value.reason == "broken_video"


def test_missing_and_empty_clips(tmp_path):
    for media, reason in ((Media("a", str(tmp_path / "a.mp4")), "missing_file"), (Media("a", data=b""), "empty_file")):
        with pytest.raises(SampleError) as caught:
            video.probe(Clip((media,)))
        assert caught.value.reason == reason


def test_sound_alone_is_no_video():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(SampleError, match="no video stream"):
        video.probe(clip(file.getvalue()))


@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_a_clip_cut_short(part, tmp_path):
    whole = write_clip(40, 25, file=str(tmp_path / "whole.mp4"))
    with pytest.raises(SampleError, match=r"clip\.mp4") as caught:
        shown(clip(whole[: int(len(whole) * part)]), [5, 20, 39])
    assert caught.value.reason == "broken_video"


def test_damage_that_the_decoder_sees_is_not_painted_over():
    random = np.random.default_rng(0)
    whole = write_clip(20, 25, draw=lambda _, height, width: random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    seen = 0
    for part in np.linspace(0.1, 0.9, 12):
        data = bytearray(whole)
        place = int(part * len(whole))
        data[place : place + 300] = b"\x55" * 300
        try:
            shown(clip(bytes(data)), range(20))
        except SampleError as error:
            seen += "a frame is damaged" in str(error)
    assert seen


def test_a_clock_that_restarts_is_refused():
    """Two transport streams joined byte by byte, as downloads of live streams are: each time names two frames."""
    once = write_clip(20, format="mpegts", codec="mpeg2video")
    assert video.probe(clip(once)).frames == 20
    with pytest.raises(SampleError, match=r"its clock restarts after 0\.\d s, .*join them with new times") as caught:
        video.probe(clip(once + once))
    assert caught.value.reason == "broken_video"


def test_a_cut_clip_without_a_header_of_its_end_is_shorter():
    whole = write_clip(100, 25, "mpegts")
    info = video.probe(clip(whole[: len(whole) // 2]))
    assert 20 < info.frames < 80
    with pytest.raises(SampleError, match="ends before"):
        list(video.read_frames(clip(whole[: len(whole) // 2]), video.probe(clip(whole)), [5, 99]))


def test_a_clip_with_an_aspect_ratio_over_200():
    media = clip(write_clip(2, 25, codec="mpeg4", size=(16, 4096)))
    with pytest.raises(SampleError) as caught:
        video.probe(media)
    assert caught.value.reason == "aspect_ratio"


def packed(sizes: list[int], claimed: int) -> bytes:
    """A clip of black PNG frames with these sides, whose header claims another."""
    file, packets = io.BytesIO(), []
    for side in sizes:
        encoder = av.CodecContext.create("png", "w")
        encoder.width = encoder.height = side
        encoder.pix_fmt, encoder.time_base = "gray", Fraction(1, 25)
        frame = av.VideoFrame(side, side, "gray")
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        packets += [bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode())]
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream("png", rate=25)
        stream.width = stream.height = claimed
        stream.pix_fmt = "gray"
        for index, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.duration, packet.time_base = stream, index, index, 1, Fraction(1, 25)
            container.mux(packet)
    return file.getvalue()


def peak_bytes() -> int:
    """The most memory that this process has had."""
    (line,) = [line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


@pytest.mark.parametrize("sizes", [[14_000], [64, 14_000]])
def test_frames_that_are_larger_than_the_header_says_take_no_memory(sizes):
    """Hundreds of kilobytes would unpack to 196 million pixels: as the first frame, which is decoded to find the format, and as a later one."""
    small = packed([64, 64], 64)
    assert [frame.shape for frame in video.read_frames(clip(small), video.probe(clip(small)), [0, 1])] == [(64, 64, 3)] * 2
    content = packed(sizes, 64)
    assert len(content) < 1 << 20
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak_bytes()
    with pytest.raises(SampleError) as caught:
        list(video.read_frames(clip(content), video.probe(clip(content)), [0, len(sizes) - 1]))
    assert caught.value.reason == "broken_video"
    assert peak_bytes() - before < 64 << 20
