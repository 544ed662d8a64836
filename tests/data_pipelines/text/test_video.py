"""Times and rates are written as Python writes them from their exact binary values, whole arrays at once."""

import numpy as np
import pytest

from data_pipelines.media.video import VideoInfo
from data_pipelines.text import chat, video
from data_pipelines.text.marks import as_words


def values():
    random = np.random.default_rng(0)
    ties = random.integers(0, 10**7, 20_000)
    return np.concatenate(
        [
            random.uniform(0, 1e5, 20_000),
            ties / 8,  # exact halves of a hundredth
            ties / 200,  # nearly so
            np.nextafter(ties / 200, np.inf),
            np.nextafter(ties[ties > 0] / 200, 0),
            ties / 30000 * 1001,
            [0.0, 0.005, 59.994, 59.995, 59.996, 3600.0, 1e9 + 0.125, 123456789.005],
        ]
    )


@pytest.mark.parametrize("digits", [1, 2])
def test_decimals_are_rounded_as_python_writes_them(digits):
    found = video.decimals(values(), digits).tolist()
    assert found == [int(f"{value:.{digits}f}".replace(".", "")) for value in values().tolist()]


def test_marks_are_minutes_and_seconds():
    for value in values().tolist()[::7]:
        minutes, rest = divmod(round(value, 2), 60)
        assert video.mark(value) == f"[{int(minutes):02d}:{rest:05.2f}]:<image>\n"


def test_prefixes_name_the_rate_to_a_tenth():
    random = np.random.default_rng(0)
    for count in random.integers(1, 300, 2000).tolist():
        duration = float(random.choice([random.uniform(0.01, 5000), random.integers(1, 4000) / 25, random.integers(1, 4000) / 40]))
        minutes, seconds = divmod(int(duration), 60)
        assert video.prefix(VideoInfo(duration, 25.0, 500, 1, 1), range(count)) == (
            f"The time range of this video is [00:00-{minutes:02d}:{seconds:02d}], and the following is a series of {count} frames "
            f"sampled at {count / duration:.1f} FPS.\n"
        )


def test_conversations_are_taken_apart_at_their_clips():
    turns = [
        chat.Turn("system", "Watch."),
        chat.Turn("user", f"One <image> two {as_words('<video>')} <video>\nthree<video>\n\nfour<image>five"),
        chat.Turn("assistant", "<video>"),
    ]
    without, before = chat.around_clips(turns)
    assert [turn.text for turn in without] == [
        "Watch.",
        f"One <image> two {as_words('<video>')} <image>\nthree<image>\n\nfour<image>five",
        "<image>\n",
    ]
    assert before == [" two <video> ", "\nthree", ""]
    assert chat.around_clips([chat.Turn("user", "<video>")])[1] == ["user\n"]
