"""Sources of made lengths, and a phase, for the tests of planning."""

import numpy as np

from data_pipelines.schema import PhaseSettings


class Index:
    """Lengths made up: [n, 4] tokens, visual tokens, images, segments."""

    def __init__(self, name, lengths, usable=None, max_epochs=0.0):
        self.name, self.max_epochs, self._lengths = name, max_epochs, np.asarray(lengths, np.int64)
        self.usable = np.arange(len(self._lengths)) if usable is None else np.asarray(usable, np.int64)

    def lengths(self, phase, seed):
        return self._lengths


def phase(**changes):
    settings = dict(
        name="p", rows=256, context=512, visual_tokens=460, images=32, segments=64, min_pixels=1024, max_pixels=4096, frames=8,
        frames_per_second=(1.0, 4.0), frame_pixels=1024, mixture={"text": 2, "image": 4, "video": 1},
    )  # fmt: skip
    return PhaseSettings(**(settings | changes))
