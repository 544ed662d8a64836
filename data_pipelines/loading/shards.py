"""Rows cut for context parallelism: each shard takes several pieces of a row, so that all have equally many tokens and nearly equally many
attended pairs.

A causal row cut into runs of tokens gives the last shard twice the mean work; packed documents and images make it worse. Here a row is cut into
pieces of equal length, and pieces are dealt to shards. Within a shard they stand in ascending order, and positions, intervals, targets and
weights travel with their tokens; intervals go on naming keys of the whole row in its own order (`pieces` says where each key piece went).

Shape legend: L tokens of a row, S shards, P pieces of a row, V visual tokens of a shard.
"""

from __future__ import annotations

import numpy as np

from data_pipelines.schema import VISUAL_TOKEN_BYTES, batch_fields

FEWEST, MOST = 6, 20  # pieces a shard takes; more balance better and cut the tiles of attention kernels more often
ALIGNMENTS = (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1)  # tokens: a tile of queries that lies in one piece touches few keys


def pieces_of_shard(context: int, shards: int) -> int:
    """How many pieces each shard takes of a row of `context` tokens, which divides by `shards`."""
    length = context // shards
    for alignment in ALIGNMENTS:
        for count in range(FEWEST, MOST + 1):
            if length % (count * alignment) == 0:
                return count
    return max(count for count in range(1, FEWEST) if length % count == 0)


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


def piece_order(attend: np.ndarray, shards: int) -> np.ndarray:
    """[P] pieces of a row with intervals [L, 2] in the order of the shards that take them."""
    count = shards * pieces_of_shard(len(attend), shards)
    return deal((attend[:, 1] - attend[:, 0]).reshape(count, -1).sum(axis=1, dtype=np.int64), shards).reshape(-1)


def attended_pairs(row: dict[str, np.ndarray], shards: int) -> np.ndarray:
    """[S] attended pairs of each shard of a row that `arrange` gave."""
    spans = row["attend"][:, 1] - row["attend"][:, 0]
    return spans.reshape(shards, -1).sum(axis=1, dtype=np.int64)


def arrange(row: dict[str, np.ndarray], shards: int) -> dict[str, np.ndarray]:
    """A packed row with its tokens in the order of their shards, and the pixels of each shard's visual tokens in its part of `visual`.

    Args:
      row: of rows.pack, fields of schema.batch_fields(..., 1) without the dimension of rows.
      shards: that the row is cut into.

    Returns:
      The fields of `shard_fields`, each without its leading dimension of rows. One shard: the row as it is.
    """
    if shards == 1:
        return row
    order = piece_order(row["attend"], shards)
    context, count = len(row["tokens"]), len(order)
    arranged = {
        name: array.reshape(count, context // count, *array.shape[1:])[order].reshape(array.shape)
        for name, array in row.items()
        if not name.startswith("visual") or name == "visual_slot"
    }
    arranged["pieces"] = np.argsort(order).astype(np.int32)
    room = _room(context, len(row["visual"]), shards)
    slots = arranged["visual_slot"].reshape(shards, -1)
    own = [slot[slot >= 0] for slot in slots]
    arranged["visual_slot"] = np.where(slots >= 0, np.cumsum(slots >= 0, axis=1) - 1, -1).astype(np.int32).reshape(-1)
    visual = np.zeros((shards, room, VISUAL_TOKEN_BYTES), row["visual"].dtype)
    position = np.zeros((shards, room, 2), np.int32)
    for shard, taken in enumerate(own):
        np.take(row["visual"], taken, axis=0, out=visual[shard, : len(taken)])
        position[shard, : len(taken)] = row["visual_position"][taken]
    arranged["visual"], arranged["visual_position"] = visual.reshape(-1, VISUAL_TOKEN_BYTES), position.reshape(-1, 2)
    return arranged


def shard_fields(rows: int, context: int, visual_tokens: int, shards: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and dtype of every array of a batch whose rows were arranged for so many context shards.

    As schema.batch_fields, but for:
    visual, visual_position: of the first shard's visual tokens, then of the second's ... each shard has room for as many as may fall to it.
    visual_slot: index into the visual tokens of the token's own shard, or -1.
    pieces: [rows, P] int32, with several shards: where piece p of the row stands, counted in pieces, when the shards stand one after the other.
    """
    if shards == 1:
        return batch_fields(rows, context, visual_tokens)
    pieces = {"pieces": ((rows, shards * pieces_of_shard(context, shards)), np.int32)}
    return batch_fields(rows, context, shards * _room(context, visual_tokens, shards)) | pieces


def _room(context: int, visual_tokens: int, shards: int) -> int:
    """Visual tokens that a shard has room for: as many as may fall to it, whichever pieces it takes."""
    return min(visual_tokens, context // shards)
