"""Times by formula, on devices that are only described."""

import dataclasses
import types

import numpy as np
import pytest

from neo_jax.chips import CHIPS
from neo_jax.planning.collectives import Collective
from neo_jax.planning.devices import Hardware
from neo_jax.planning.roofline import duration, roofline

LINK, SLOW = CHIPS["v5p"].link_bandwidth, CHIPS["v5p"].slow_bandwidth


def cube(groups: int = 1) -> Hardware:
    """`groups` slices of 4 x 4 x 4 chips."""
    places = [(x, y, z) for _ in range(groups) for x in range(4) for y in range(4) for z in range(4)]
    return Hardware("v5p", CHIPS["v5p"], [types.SimpleNamespace(coords=place) for place in places], groups)


def gather(members, kind="all-gather", size=1 << 30, **changes) -> Collective:
    return dataclasses.replace(Collective(kind, ("fsdp",), "", size, 1, False, tuple(members)), **changes)


def test_rings_and_lines():
    z, yz = range(4), range(16)
    assert duration(cube(), gather(z), list(z)) == pytest.approx((1 << 30) * 3 / 4 / (2 * LINK))
    assert duration(cube(), gather(yz), list(yz)) == pytest.approx((1 << 30) * 15 / 16 / (4 * LINK))
    half = [0, 1]  # half of a dimension: a line
    assert duration(cube(), gather(half), half) == pytest.approx((1 << 30) / 2 / LINK)
    assert duration(cube(), gather(z, "all-reduce"), list(z)) == pytest.approx(2 * (1 << 30) * 3 / 4 / (2 * LINK))


def test_all_to_all_and_permute():
    """On a ring of four a quarter goes one, two and one chips far: bytes over two links. Along two rings each is crossed by half of the bytes."""
    z, yz = list(range(4)), list(range(16))
    assert duration(cube(), gather(z, "all-to-all"), z) == pytest.approx((1 << 30) / (2 * LINK))
    assert duration(cube(), gather(yz, "all-to-all"), yz) == pytest.approx((1 << 30) / (2 * LINK))
    assert duration(cube(), gather([0, 1], "all-to-all"), [0, 1]) == pytest.approx((1 << 30) / 2 / LINK)
    assert duration(cube(), gather([0, 1], "collective-permute"), [0, 1]) == pytest.approx((1 << 30) / LINK)
    assert duration(cube(2), gather([0, 64], "collective-permute"), [0, 64]) == pytest.approx((1 << 30) / SLOW)


def test_slices():
    """Over two slices alone, and with the four chips of a ring in each."""
    apart = [0, 64]
    assert duration(cube(2), gather(apart), apart) == pytest.approx((1 << 30) / 2 / SLOW)
    both = [0, 1, 2, 3, 64, 65, 66, 67]
    expected = (1 << 30) * (3 / 4 / (2 * LINK) + 1 / 2 / (4 * SLOW))
    assert duration(cube(2), gather(both), both) == pytest.approx(expected)


def test_what_slices_send_each_other():
    summed, sent = gather([], "all-reduce between slices"), gather([], "exchange between slices")
    assert duration(cube(2), summed, []) == pytest.approx((1 << 30) / SLOW)  # twice half of it
    assert duration(cube(4), sent, []) == pytest.approx((1 << 30) * 3 / 4 / SLOW)


def test_nodes():
    chip = CHIPS["h200"]
    nodes = Hardware("h200", chip, [types.SimpleNamespace()] * 16, 2)
    inside = list(range(8))
    assert duration(nodes, gather(inside), inside) == pytest.approx((1 << 30) * 7 / 8 / chip.link_bandwidth)
    assert duration(nodes, gather([0, 8]), [0, 8]) == pytest.approx((1 << 30) / 2 / chip.slow_bandwidth)


def test_what_is_exposed():
    """Asynchronous collectives hide behind the work; what exceeds it, and synchronous ones, are exposed."""
    chip, places = CHIPS["v5p"], np.arange(64)
    second = int(2 * LINK * 4 / 3)  # bytes that take a second along a ring of four
    work = (chip.flops * 3, chip.hbm_bandwidth * 2)
    hidden = roofline(cube(), *work, [gather(range(4), size=second, asynchronous=True, count=2)], places)
    assert (hidden.compute, hidden.memory, hidden.bounded_by) == (3, 2, "compute")
    assert hidden.network == pytest.approx(2) and hidden.exposed == 0 and hidden.step == 3
    more = roofline(cube(), *work, [gather(range(4), size=second, asynchronous=True, count=5), gather(range(4), size=second)], places)
    assert more.exposed == pytest.approx(1 + 2) and more.step == pytest.approx(6)
    assert more.by_axis == {"all-gather over fsdp": pytest.approx(6)}
    assert roofline(cube(), *work, [gather(range(4), size=9 * second)], places).bounded_by == "network"
    assert roofline(cube(), chip.flops, chip.hbm_bandwidth * 2, [], places).bounded_by == "memory"


def test_places_are_those_of_the_mesh():
    """The mesh's first four devices stand along x, where other four along z would be the first of the hardware."""
    along_x = np.array([0, 16, 32, 48])
    assert roofline(cube(), 1, 1, [gather(range(4))], along_x).network == pytest.approx((1 << 30) * 3 / 4 / (2 * LINK))
    along_part = np.array([0, 1, 16, 17])
    assert roofline(cube(), 1, 1, [gather(range(4))], along_part).network == pytest.approx((1 << 30) * 3 / 4 / (2 * LINK))
