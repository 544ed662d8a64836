"""Rows cut for context parallelism: each shard takes several pieces of a row, so that all have equally many tokens and nearly equally many
attended pairs.

A causal row cut into runs of tokens gives the last shard twice the mean work; packed documents and images make it worse. Here a row is cut into
pieces of equal length, and pieces are dealt to shards. Within a shard they stand in ascending order, and positions, intervals, targets and
weights travel with their tokens; intervals go on naming keys of the whole row in its own order (`pieces` says where each key piece went).

Shape legend: L tokens of a row, S shards, P pieces of a row, V visual tokens of a shard.
"""

from __future__ import annotations

import numpy as np

from data_pipelines.batch import Batch, Intervals, attended_pairs, map_arrays, pieces_of_shard, visual_room


def deal(costs: np.ndarray, shards: int) -> np.ndarray:
    """Deals pieces to shards, equally many to each, so that the largest sum of costs is small.

    The costliest piece that is left goes to the shard with the smallest sum that has room; then pieces are exchanged between the shard with
    the largest sum and another one for as long as that lowers the larger of the two.

    Args:
      costs: [P] attended pairs of each piece.

    Returns:
      [S, P / S] numbers of pieces, ascending in each shard.
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
    """Exchanges one pair of pieces between the busiest shard and another; False where no exchange helps."""
    busiest = int(np.argmax(sums))
    for other in np.argsort(sums, kind="stable"):
        gain = costs[dealt[busiest]][:, None] - costs[dealt[other]][None, :]
        # The larger of the two sums falls when the gain lies between 0 and their difference, most in its middle.
        distance = np.where((gain > 0) & (gain < sums[busiest] - sums[other]), np.abs(gain - (sums[busiest] - sums[other]) / 2), np.inf)
        i, j = np.unravel_index(np.argmin(distance), distance.shape)
        if np.isfinite(distance[i, j]):
            sums[busiest] -= gain[i, j]
            sums[other] += gain[i, j]
            dealt[busiest][i], dealt[other][j] = dealt[other][j], dealt[busiest][i]
            return True
    return False


def piece_order(intervals: Intervals, shards: int) -> np.ndarray:
    """[P] pieces of a row with intervals [L] in the order of the shards that take them."""
    count = shards * pieces_of_shard(len(intervals.lo), shards)
    return deal(attended_pairs(map_arrays(lambda x: x.reshape(count, -1), intervals), axis=1), shards).reshape(-1)


def pairs_of_shards(intervals: Intervals, shards: int) -> np.ndarray:
    """[S] attended pairs of each shard of a row that `arrange` gave, by its intervals [L]."""
    return attended_pairs(map_arrays(lambda x: x.reshape(shards, -1), intervals), axis=1)


def arrange(row: Batch, shards: int) -> Batch:
    """A packed row with its tokens in the order of their shards, and the pixels of each shard's visual tokens in its part of `visual`.

    Args:
      row: of rows.pack.
      shards: that the row is cut into. One: the row as it is.
    """
    if shards == 1:
        return row
    order = piece_order(row.inputs.intervals, shards)
    context, count = len(row.targets), len(order)

    def reorder(x: np.ndarray) -> np.ndarray:
        return x.reshape(count, context // count, *x.shape[1:])[order].reshape(x.shape)

    inputs = row.inputs
    room = visual_room(context, len(inputs.visual), shards)
    slots = reorder(inputs.visual_slot).reshape(shards, -1)
    visual = np.zeros((shards, room, *inputs.visual.shape[1:]), inputs.visual.dtype)
    position = np.zeros((shards, room, 2), np.int32)
    for shard, slot in enumerate(slots):
        own = slot[slot >= 0]
        np.take(inputs.visual, own, axis=0, out=visual[shard, : len(own)])
        position[shard, : len(own)] = inputs.visual_position[own]
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
