"""The named ways of choosing frames, against the rules of the kits they come from, written out clip by clip."""

import dataclasses
import math

import numpy as np
import pytest

from data_pipelines.media import sizes, video
from data_pipelines.schema import FRAME_CHOICES, PhaseSettings

RATE = 2.0
PHASE = PhaseSettings("p", 1, 4096, 4096, 512, 8, 1024, 1024 * 1024, 24, (RATE, RATE), 256 * 256, {})


def qwen_vl(total, rate, cap):
    least, most = 4, min(cap, total) // 2 * 2
    count = max(1, math.floor(min(min(max(total / rate * RATE, least), most), total) / 2) * 2)
    return [round(i * (total - 1) / (count - 1)) if count > 1 else 0 for i in range(count)]


def internvl(total, rate, cap):
    count = max(1, min(int(total / rate * RATE), cap, total))
    segment = (total - 1) / count
    return [int(segment / 2 + np.round(segment * i)) for i in range(count)]


def llava_video(total, rate, cap):
    every = list(range(0, total, max(1, round(rate / RATE))))
    return every if len(every) <= cap else np.linspace(0, total - 1, cap, dtype=int).tolist()


def neo(total, rate, cap):
    count = max(1, min(int(total / rate * RATE), cap, total))
    return [i * total // (count + 1) for i in range(1, count + 1)]


@pytest.mark.parametrize("rule", [neo, qwen_vl, internvl, llava_video])
@pytest.mark.parametrize("cap", [1, 2, 5, 24])
def test_frames_are_those_of_the_kit(rule, cap):
    phase = dataclasses.replace(PHASE, frame_choice=rule.__name__, frames=cap)
    for total in (1, 2, 3, 4, 5, 7, 8, 30, 97, 240, 1001):
        for rate in (2.0, 8.0, 25.0):
            found = video.choose_frames(video.VideoInfo(total / rate, rate, total, 64, 64), phase, 0)
            assert found.tolist() == rule(total, rate, cap), (total, rate)
            assert 1 <= len(found) <= cap and (np.diff(found) >= 0).all() and found[0] >= 0 and found[-1] < total


def test_all_ways_draw_the_rate_from_the_seed():
    info = video.VideoInfo(10.0, 25.0, 250, 64, 64)
    for choice in FRAME_CHOICES:
        phase = dataclasses.replace(PHASE, frame_choice=choice, frames=64, frames_per_second=(1.0, 4.0))
        counts = {len(video.choose_frames(info, phase, seed)) for seed in range(60)}
        assert min(counts) < 20 and max(counts) > 25, choice


def test_a_clips_budget_is_shared_by_its_frames():
    phase = dataclasses.replace(PHASE, clip_pixels=16 * 128 * 128)
    assert sizes.frame_limits([1, 4, 16, 64, 1000], phase).tolist() == [262144, 65536, 16384, 4096, 1024]
    assert sizes.frame_limits([1, 4, 16], PHASE).tolist() == [1048576, 524288, 65536]


def test_several_images_share_what_the_context_leaves_as_in_u1():
    phase = dataclasses.replace(PHASE, image_budget="u1", context=8192)
    left = (8192 - 3072) * 1024
    assert sizes.image_limits([1, 2, 5, 16, 10**6], phase).tolist() == [1048576, 1048576, 1048576, left // 16, 1024]
    assert sizes.frame_limits([4, 16], phase).tolist() == [1048576, 65536]
