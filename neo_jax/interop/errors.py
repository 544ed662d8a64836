"""The one error of this room."""


class WeightsError(ValueError):
    """A folder that is not a checkpoint of this model. The message is one sentence: file, field or tensor, and what to do."""
