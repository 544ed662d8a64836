import dataclasses
import io
import pathlib

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines import documents
from data_pipelines.loading import rows
from data_pipelines.media import images, sizes, video
from data_pipelines.schema import DOCUMENT, NO_LABEL, Clip, Media, PhaseSettings, Sample, SampleError, Turn
from data_pipelines.text import chat
from data_pipelines.text import video as video_text
from data_pipelines.text.tokenizers import load_tokenizer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
PHASE = PhaseSettings("test", 1, 2048, 512, 16, 8, 1024, 32768, 12, (2.0, 6.0), 3072, {})
TEXT_PHASE = dataclasses.replace(PHASE, name="words", visual_tokens=0, images=0, frames=0)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(GOLDEN / "tokenizer.json", True)


def picture(height: int, width: int, name: str = "a.png") -> Media:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return Media(name, data=file.getvalue())


@pytest.fixture(scope="module")
def movie() -> Clip:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for level in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 20 + 7 * level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return Clip((Media("clip.mp4", data=file.getvalue()),))


def sample(question: str, images: tuple[Media, ...] = (), clips: tuple[Clip, ...] = ()) -> Sample:
    return Sample("rows.jsonl:3", (Turn("user", question), Turn("assistant", "Two.")), images, clips)


def measured(item: Sample, phase: PhaseSettings, tokenizer, seed) -> documents.Lengths:
    sizes = [images.image_size(media) for media in item.images]
    return documents.measure(item.turns, sizes, [video.probe(clip) for clip in item.clips], phase, tokenizer, seed)


def reason(function, *arguments) -> str:
    with pytest.raises(SampleError, match=r"rows\.jsonl:3") as caught:
        function(*arguments)
    return caught.value.reason


def test_one_image_has_the_reference_pixels(tokenizer):
    path = GOLDEN / "preprocess" / "image_3.png"
    phase = dataclasses.replace(PHASE, min_pixels=3136, max_pixels=65536)
    document = documents.build_document(sample("<image>\nHow many?", (Media("image_3.png", str(path)),)), phase, tokenizer, 0)
    golden = np.load(path.with_suffix(".npz"))["resized"]
    np.testing.assert_array_equal(document.visual, images.to_visual_tokens(golden))
    assert document.grids.tolist() == [[6, 9]] and document.grids.dtype == np.int32
    tokens, labels = chat.encode(sample("<image>\nHow many?").turns, [54], tokenizer)
    np.testing.assert_array_equal(document.tokens, tokens)
    np.testing.assert_array_equal(document.labels, labels)


def test_several_images_share_the_budget_and_keep_their_order(tokenizer):
    pictures = (picture(200, 100), picture(50, 300), picture(190, 190), picture(32, 32))
    document = documents.build_document(sample("<image><image> or <image>, <image>?", pictures), PHASE, tokenizer, 0)
    resized = sizes.smart_resize([images.image_size(media) for media in pictures], 1024, 2 * 32768 // 4)
    np.testing.assert_array_equal(document.grids, resized // 32)
    start = 0
    for media, (height, width) in zip(pictures, resized.tolist(), strict=True):
        expected = images.to_visual_tokens(images.resize(images.decode(images.read_bytes(media), ""), height, width, "exact"))
        np.testing.assert_array_equal(document.visual[start : start + len(expected)], expected)
        start += len(expected)
    assert start == len(document.visual)


def test_fast_resize_is_used_when_the_phase_says_so(tokenizer):
    item = sample("<image>", (picture(100, 100),))
    exact, fast = (documents.build_document(item, dataclasses.replace(PHASE, resize=mode), tokenizer, 0) for mode in ("exact", "fast"))
    np.testing.assert_array_equal(exact.tokens, fast.tokens)
    assert (exact.visual != fast.visual).any()


def test_images_that_are_trained_on_are_degraded_anew_in_each_epoch(tokenizer, movie):
    """To a JPEG of a drawn quality, after they are resized; frames and prompts are left as they are."""
    item = sample("<image><image><video>", (picture(100, 100), picture(100, 100)), (movie,))
    phase = dataclasses.replace(PHASE, jpeg_quality=(20, 22))
    plain = documents.build_document(item, PHASE, tokenizer, 3, 0)
    degraded = [documents.build_document(item, phase, tokenizer, 3, epoch) for epoch in range(12)]
    again = documents.build_document(item, phase, tokenizer, 3, 7)
    assert (again.visual == degraded[7].visual).all()
    pixels = images.decode(images.read_bytes(item.images[0]), "")
    height, width = (32 * side for side in plain.grids[0].tolist())
    each = [images.to_visual_tokens(images.degrade(images.resize(pixels, height, width, "exact"), quality)) for quality in (20, 21, 22)]
    count = len(each[0])
    found = [
        [next(q for q in range(3) if (document.visual[start : start + count] == each[q]).all()) for start in (0, count)]
        for document in degraded
    ]
    assert {q for pair in found for q in pair} == {0, 1, 2} and any(first != second for first, second in found)
    for document in degraded:
        assert (document.tokens == plain.tokens).all() and (document.visual[2 * count :] == plain.visual[2 * count :]).all()
    assert (documents.build_document(item, phase, tokenizer, 3).visual == plain.visual).all()


def test_pictures_and_clips_stand_in_the_order_of_their_marks(tokenizer, movie):
    """A clip between two pictures, and two clips: grids, frames and pixels in the order of the marks; lengths as measured."""
    item = sample("<image> and <video>\nor <image>?", (picture(64, 64), picture(32, 96)), (movie,))
    document = documents.build_document(item, PHASE, tokenizer, 5)
    frames = video.choose_frames(video.probe(movie), PHASE, 5)
    assert document.grids.tolist() == [[2, 2], *([[1, 2]] * len(frames)), [1, 3]]
    assert measured(item, PHASE, tokenizer, 5) == (len(document.tokens), len(document.visual), len(document.grids))
    levels = document.visual[4 : 4 + 2 * len(frames)].reshape(len(frames), -1).mean(axis=1)
    np.testing.assert_allclose(levels, 20 + 7 * frames, atol=2)
    roomy = dataclasses.replace(PHASE, images=32)
    two = documents.build_document(sample("<video><video>", clips=(movie, movie)), roomy, tokenizer, 5)
    second = video.choose_frames(video.probe(movie), PHASE, documents.clip_seed(5, 1))
    assert len(two.grids) == len(frames) + len(second) and documents.clip_seed(5, 0) == 5


def test_given_frames_are_a_clip_with_their_own_times(tokenizer):
    files = tuple(picture(64, 64 + 0 * number) for number in range(6))
    clip = Clip(files, (0.0, 1.0, 1.5, 4.0, 7.0, 7.5))
    item = sample("<video>\nWhat?", clips=(clip,))
    document = documents.build_document(item, PHASE, tokenizer, 3)
    info = video.probe(clip)
    assert (info.frames, info.duration, info.times) == (6, 9.0, clip.times)
    chosen = video.choose_frames(info, PHASE, 3)
    text = tokenizer.decode(document.tokens)
    for index in chosen.tolist():
        assert f"[00:{clip.times[index]:05.2f}]:<img>" in text
    assert measured(item, PHASE, tokenizer, 3) == (len(document.tokens), len(document.visual), len(document.grids))


@pytest.mark.parametrize("times", [(0.0, 0.0), (1.0, 0.5), (-1.0, 2.0), (1.0,)])
def test_times_of_frames_that_cannot_be(times):
    with pytest.raises(SampleError, match="time") as caught:
        video.probe(Clip((picture(64, 64), picture(64, 64))[: max(len(times), 1)] if len(times) > 1 else (picture(64, 64),), times))
    assert caught.value.reason == "broken_video"


def test_a_text_is_learned_whole(tokenizer):
    text = Sample("a:1", (Turn(DOCUMENT, "One <image> two"),), (picture(64, 64),))
    document = documents.build_document(text, PHASE, tokenizer, 0)
    assert tokenizer.decode(document.tokens) == "One <img>" + "<IMG_CONTEXT>" * 4 + "</img> two<|endoftext|>"
    unlearned = {tokenizer.special[name] for name in ("<img>", "<IMG_CONTEXT>", "</img>")}
    for token, label in zip(document.tokens.tolist(), document.labels.tolist(), strict=True):
        assert label == (NO_LABEL if token in unlearned else token)


def test_a_video_becomes_its_frames(tokenizer, movie):
    item = sample("<video>\nWhat changes?", clips=(movie,))
    document = documents.build_document(item, PHASE, tokenizer, 5)
    info = video.probe(movie)
    indices = video.choose_frames(info, PHASE, 5)
    assert len(indices) > 4
    assert document.grids.tolist() == [[1, 2]] * len(indices)  # at most 3072 pixels of 64 x 96
    levels = document.visual.reshape(len(indices), -1).mean(axis=1)
    np.testing.assert_allclose(levels, 20 + 7 * indices, atol=2)
    text = tokenizer.decode(document.tokens)
    assert text.startswith(
        f"<|im_start|>user\n{video_text.prefix(info, indices)}[{indices[0] / 10 // 60:02.0f}:{indices[0] / 10:05.2f}]:<img>"
    )
    assert "</img>\nWhat changes?<|im_end|>" in text


def test_frames_depend_on_the_seed_alone(tokenizer, movie):
    item = sample("<video>", clips=(movie,))
    built = {seed: documents.build_document(item, PHASE, tokenizer, seed) for seed in range(6)}
    assert len({len(document.tokens) for document in built.values()}) > 1
    np.testing.assert_array_equal(built[3].tokens, documents.build_document(item, PHASE, tokenizer, 3).tokens)


def test_measure_is_exact_without_pixels(tokenizer, movie):
    random = np.random.default_rng(0)
    items = [sample("What <|im_end|> is 1 + 1?"), sample("<image>", (picture(1, 200),)), sample("<video>\nWhat?", clips=(movie,))]
    for _ in range(20):
        count = int(random.integers(1, 6))
        pictures = tuple(picture(int(h), int(w)) for h, w in random.integers(1, 300, (count, 2)))
        if all(max(size) <= 200 * min(size) for size in map(lambda media: Image.open(io.BytesIO(media.data)).size, pictures)):
            items.append(sample(" so ".join(["<image>\n"] * count), pictures))
    for seed, item in enumerate(items):
        document = documents.build_document(item, PHASE, tokenizer, (1, seed))
        expected = (len(document.tokens), len(document.visual), len(document.grids))
        assert measured(item, PHASE, tokenizer, (1, seed)) == expected


def test_grids_of_many_samples_at_once_equal_each_by_itself():
    pixels = np.array([[100, 200], [300, 40], [64, 64]])
    together = sizes.image_grids(pixels, [1, 3, 8], PHASE)
    assert together.tolist() == [sizes.image_grids([size], n, PHASE)[0].tolist() for size, n in zip(pixels, [1, 3, 8], strict=True)]


def test_a_document_fits_into_a_row(tokenizer, movie):
    items = [sample("<image>", (picture(60, 60),)), sample("<video>", clips=(movie,)), sample("words")]
    built = [documents.build_document(item, PHASE, tokenizer, 0) for item in items]
    row = rows.pack(built, [0, 1, 2], PHASE, tokenizer.special["<IMG_CONTEXT>"])
    np.testing.assert_array_equal(row.inputs.visual[: len(built[0].visual)], built[0].visual)


@pytest.mark.parametrize(
    ("change", "budget"), [({"context": 30}, "context"), ({"visual_tokens": 7}, "visual_tokens"), ({"images": 1}, "images")]
)
def test_a_sample_beyond_a_budget_is_too_long(change, budget, tokenizer):
    item = sample("<image> and <image>", (picture(64, 64), picture(64, 64)))
    phase = dataclasses.replace(PHASE, **change)
    with pytest.raises(SampleError, match=rf"rows\.jsonl:3: it needs \d+ of {budget}, phase test") as caught:
        documents.build_document(item, phase, tokenizer, 0)
    assert caught.value.reason == "too_long"
    with pytest.raises(SampleError):
        documents.check_fits(measured(item, phase, tokenizer, 0), phase)


def test_a_document_of_exactly_the_context_fits(tokenizer):
    item = sample("<image>", (picture(64, 64),))
    lengths = measured(item, PHASE, tokenizer, 0)
    exact = dataclasses.replace(PHASE, context=lengths.tokens, visual_tokens=lengths.visual_tokens, images=1)
    assert len(documents.build_document(item, exact, tokenizer, 0).tokens) == exact.context


def test_a_text_phase_refuses_media_and_takes_words(tokenizer, movie):
    for item in (sample("<image>", (picture(64, 64),)), sample("<video>", clips=(movie,))):
        for function in (documents.build_document, documents.prompt_document, measured):
            with pytest.raises(SampleError, match="phase words is text only") as caught:
                function(item, TEXT_PHASE, tokenizer, 0)
            assert caught.value.reason == "media_in_text_phase"
    assert documents.build_document(sample("words"), TEXT_PHASE, tokenizer, 0).visual.shape == (0, 3072)


def test_reasons_of_unusable_samples(tokenizer, movie, tmp_path):
    good = picture(64, 64)
    cases = [
        (sample("<image>"), "image_marks"),
        (sample("<image><image>", (good,)), "image_marks"),
        (sample("none", (good,)), "image_marks"),
        (sample("none", clips=(movie,)), "video_marks"),
        (sample("<video> <image>", clips=(movie,)), "image_marks"),
        (sample("<image>", (Media("gone.png", str(tmp_path / "gone.png")),)), "missing_file"),
        (sample("<image>", (Media("cut.png", data=good.data[:-3000]),)), "truncated"),
        (sample("<image>", (Media("long.png", data=picture(1, 201).data),)), "aspect_ratio"),
        (sample("<video>", clips=(Clip((Media("clip.mp4", data=b"no clip"),)),)), "broken_video"),
        (dataclasses.replace(sample(""), turns=(Turn("human", "hi"),)), "unknown_role"),
        (sample("half \ud800"), "bad_text"),
    ]
    for item, expected in cases:
        assert reason(documents.build_document, item, PHASE, tokenizer, 0) == expected
        if expected != "unknown_role":
            assert reason(documents.prompt_document, item, PHASE, tokenizer, 0) == expected


@pytest.mark.parametrize("kind", ["text", "images", "video"])
def test_a_prompt_is_the_document_up_to_its_answer(kind, tokenizer, movie):
    item = {
        "text": sample("1 + 1?"),
        "images": sample("<image> or <image>?", (picture(90, 60), picture(60, 90))),
        "video": sample("<video>\nWhat?", clips=(movie,)),
    }[kind]
    item = dataclasses.replace(item, turns=(Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Ho"), *item.turns))
    prompt = documents.prompt_document(item, PHASE, tokenizer, 7)
    whole = documents.build_document(item, PHASE, tokenizer, 7)
    np.testing.assert_array_equal(prompt.tokens, whole.tokens[: len(prompt.tokens)])
    np.testing.assert_array_equal(prompt.visual, whole.visual)
    np.testing.assert_array_equal(prompt.grids, whole.grids)
    assert (prompt.labels == NO_LABEL).all() and prompt.labels.shape == prompt.tokens.shape
    assert tokenizer.decode(prompt.tokens).endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(whole.tokens[len(prompt.tokens) :]) == "Two.<|im_end|>\n"


@pytest.mark.parametrize("turns", [(), (Turn("user", "a"),), (Turn("assistant", "a"),), (Turn("assistant", "a"), Turn("assistant", "b"))])
def test_a_prompt_needs_a_question_and_its_answer(turns, tokenizer):
    assert reason(documents.prompt_document, Sample("rows.jsonl:3", turns), PHASE, tokenizer, 0) == "no_question"


class _Counted:
    """Bytes in a store that count how often they are asked for."""

    def __init__(self, data: bytes):
        self.data, self.requests = data, 0

    def open(self):
        self.requests += 1
        return io.BytesIO(self.data)

    def read(self):
        self.requests += 1
        return self.data


def test_a_picture_in_a_store_is_asked_for_once(tokenizer):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 9)).save(file, "PNG")
    stored = _Counted(file.getvalue())
    turns = (Turn("user", "<image>?"), Turn("assistant", "Green."))
    for build in (documents.build_document, documents.prompt_document):
        stored.requests = 0
        assert len(build(Sample("a", turns, (Media("a.png", stored=stored),)), PHASE, tokenizer, 0).visual) == 4
        assert stored.requests == 1
