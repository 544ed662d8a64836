import pytest

from neo_jax.chips import CHIPS
from neo_jax.planning.devices import HardwareError, open_hardware, parse
from neo_jax.training import flops


def test_shapes():
    assert parse("v5p:4x4x4") == (CHIPS["v5p"], 1, (4, 4, 4))
    assert parse("2*v6e:16x16") == (CHIPS["v6e"], 2, (16, 16))
    assert parse("h200:8x8") == (CHIPS["h200"], 1, (8, 8))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("v5p", "not understood: write for example v5p:4x4x4"),
        ("v9:4x4", "unknown chip 'v9': it must be one of v5e, v5p, v6e, tpu7x, h100, h200"),
        ("v5p:4x4", "no such shape of v5p: 2x2x1, 2x2x2"),
        ("v5e:4x4x4", "no such shape of v5e: 2x2, 2x4, 4x4"),
        ("h200:64", "no such shape of h200: 1x1, 1x8"),
        ("2*h200:8x8", "no such shape of h200"),
        ("v5p:0x4x4", "no such shape of v5p"),
        ("0*v5p:4x4x4", "no such shape of v5p"),
    ],
)
def test_what_is_not_known_is_answered_with_what_is(text, sentence):
    with pytest.raises(HardwareError) as error:
        parse(text)
    assert f"--hardware={text}: " in str(error.value) and sentence in str(error.value)


@pytest.mark.parametrize(("text", "compiler"), [("v5p:2x2x1", "libtpu"), ("h200:1x8", "jax[cuda13]")])
def test_a_compiler_that_is_not_installed_is_named(text, compiler):
    with pytest.raises(HardwareError) as error:
        open_hardware(text)
    assert compiler in str(error.value) and "make plan" in str(error.value)


def test_peaks_of_devices():
    """Of a device as jax counts them: a TPU7x chip is two."""
    assert flops.peak("TPU v5p") == 459e12 and flops.peak("TPU v5 lite") == 197e12
    assert flops.peak("TPU7x") == 1153.5e12 and flops.peak("NVIDIA H200") == 989e12
    assert flops.peak("cpu") is None
