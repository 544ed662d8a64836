"""A full disk is recognised behind what libraries make of it; other errors are not."""

import errno

import pytest

from neo_jax.runs.full_disk import disk_is_full


def caused_by(error):
    try:
        raise RuntimeError("outer") from error
    except RuntimeError as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (ValueError("RESOURCE_EXHAUSTED: Failed writing: No space left on device [os_error_code='28']"), True),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory"), False),
        (ExceptionGroup("several", [ValueError("x"), OSError(errno.ENOSPC, "full")]), True),
        (caused_by(OSError(errno.ENOSPC, "full")), True),
        (caused_by(ValueError("x")), False),
        (None, False),
    ],
)
def test_a_full_disk(error, full):
    assert disk_is_full(error) is full
