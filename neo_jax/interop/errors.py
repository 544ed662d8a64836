"""The one error of this room."""

from data_pipelines.printable import printable


class WeightsError(ValueError):
    """A folder that is not a checkpoint of this model. The message is one sentence: file, field or tensor, and what to do.

    Names of files and tensors are foreign: what a terminal would obey is escaped.
    """

    def __init__(self, message: str):
        super().__init__(printable(message, keep="\n"))
