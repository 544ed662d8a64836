"""Divides rows for context parallelism: each shard takes several pieces of a row, so that all shards have equally many tokens and nearly
equally many attended pairs.

If a causal row is divided into contiguous runs, the last shard has twice the mean work; packed documents and images make it worse. So a row is
divided into pieces of equal length, and the pieces are assigned to shards. Within a shard the pieces are in ascending order. Positions,
intervals, targets and weights move with their tokens. Intervals still refer to keys in the original order of the row; `pieces` maps each piece
to its new place.

Shape legend: L tokens of a row, S shards, P pieces of a row, V visual tokens of a shard.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.batch import Batch, Intervals, attended_pairs, map_arrays, pieces_of_shard, visual_room


def deal(costs: np.ndarray, shards: int) -> np.ndarray:
    """Assigns pieces to shards, equally many to each, so that the largest sum of costs is small.

    Pieces are assigned in order of decreasing cost, each to the shard with the smallest sum among those with room. Then pieces are exchanged
    between the shard with the largest sum and another one, as long as this lowers the larger of the two sums.

    Args:
      costs: [P] attended pairs of each piece.
      shards: S, a divisor of P.

    Returns:
      [S, P / S] indices of pieces, ascending in each shard.
    """
    each = len(costs) // shards
    dealt: list[list[int]] = [[] for _ in range(shards)]
    sums = np.zeros(shards)
    for piece in np.argsort(-costs, kind="stable"):
        shard = min((s for s in range(shards) if len(dealt[s]) < each), key=lambda s: sums[s])
        dealt[shard].append(int(piece))
        sums[shard] += costs[piece]
    while _exchange(dealt, sums, costs):
        pass
    return np.sort(np.array(dealt), axis=1)


def _exchange(dealt: list[list[int]], sums: np.ndarray, costs: np.ndarray) -> bool:
    """Exchanges one pair of pieces between the busiest shard and another. Returns False if no exchange helps."""
    busiest = int(np.argmax(sums))
    for other in np.argsort(sums, kind="stable"):
        gain = costs[dealt[busiest]][:, None] - costs[dealt[other]][None, :]
        # The larger of the two sums decreases if the gain lies between 0 and their difference; the decrease is largest at half the difference.
        distance = np.where((gain > 0) & (gain < sums[busiest] - sums[other]), np.abs(gain - (sums[busiest] - sums[other]) / 2), np.inf)
        i, j = np.unravel_index(np.argmin(distance), distance.shape)
        if np.isfinite(distance[i, j]):
            sums[busiest] -= gain[i, j]
            sums[other] += gain[i, j]
            dealt[busiest][i], dealt[other][j] = dealt[other][j], dealt[busiest][i]
            return True
    return False


def piece_order(intervals: Intervals, shards: int) -> np.ndarray:
    """Returns [P] the pieces of a row with intervals [L], ordered by shard."""
    count = shards * pieces_of_shard(len(intervals.lo), shards)
    return deal(attended_pairs(map_arrays(lambda x: x.reshape(count, -1), intervals), axis=1), shards).reshape(-1)


def pairs_of_shards(intervals: Intervals, shards: int) -> np.ndarray:
    """Returns [S] the attended pairs of each shard of a row from `arrange`, given its intervals [L]."""
    return attended_pairs(map_arrays(lambda x: x.reshape(shards, -1), intervals), axis=1)


def held_visual(row: Batch, shards: int, held: Sequence[int]) -> np.ndarray:
    """Returns [V] whether each visual token of a row from rows.pack lies in one of the shards `held` if the row is arranged for `shards`."""
    slots = _reorder(row.inputs.visual_slot, piece_order(row.inputs.intervals, shards)).reshape(shards, -1)[list(held)]
    result = np.zeros(len(row.inputs.visual), bool)
    result[slots[slots >= 0]] = True
    return result


def arrange(row: Batch, shards: int, held: Sequence[int] | None = None) -> Batch:
    """Reorders a packed row by shards: its tokens, and in `visual` the pixels of each shard's visual tokens.

    Args:
      row: row from rows.pack.
      shards: number of shards. With one, the row is returned unchanged.
      held: shards whose pixels are needed; those of the others may be zeros. None: all.
    """
    if shards == 1:
        return row
    order = piece_order(row.inputs.intervals, shards)
    reorder = functools.partial(_reorder, order=order)
    inputs = row.inputs
    room = visual_room(len(row.targets), len(inputs.visual), shards)
    slots = reorder(inputs.visual_slot).reshape(shards, -1)
    visual = np.zeros((shards, room, *inputs.visual.shape[1:]), inputs.visual.dtype)
    position = np.zeros((shards, room, 2), np.int32)
    for shard, slot in enumerate(slots):
        own = slot[slot >= 0]
        position[shard, : len(own)] = inputs.visual_position[own]
        if held is None or shard in held:
            np.take(inputs.visual, own, axis=0, out=visual[shard, : len(own)])
    arranged = inputs._replace(
        tokens=reorder(inputs.tokens),
        positions=reorder(inputs.positions),
        intervals=map_arrays(reorder, inputs.intervals),
        visual_slot=np.where(slots >= 0, np.cumsum(slots >= 0, axis=1) - 1, -1).astype(np.int32).reshape(-1),
        visual=visual.reshape(-1, *inputs.visual.shape[1:]),
        visual_position=position.reshape(-1, 2),
        pieces=np.argsort(order).astype(np.int32),
    )
    return Batch(arranged, reorder(row.targets), reorder(row.loss_weights), reorder(row.source))


def _reorder(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns an array [L, ...] with its pieces in this order."""
    return x.reshape(len(order), len(x) // len(order), *x.shape[1:])[order].reshape(x.shape)
