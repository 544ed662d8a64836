"""A model of a few thousand parameters and packed rows with images of several tokens, for the tests of the model side."""

import jax
import numpy as np

from data_pipelines.batch import Batch, map_arrays, stack
from data_pipelines.loading.rows import pack
from data_pipelines.loading.shards import arrange
from data_pipelines.schema import NO_LABEL, VISUAL_TOKEN_BYTES, Document, PhaseSettings
from neo_jax import config
from neo_jax.model.backbone import abstract

IMAGE = 90  # id of <IMG_CONTEXT>; text ids are below it
SHAPE = dict(
    hidden=32, mlp=48, heads=4, kv_heads=2, head_dim=8, base_layers=2, pre_buffer_layers=2, vocabulary=96, tied=True, patch_channels=16
)  # fmt: skip


def model(**changes) -> config.Model:
    return config.Model(**(SHAPE | changes))


def parameters(settings: config.Model, architecture: str, seed: int, scale: float = 0.02) -> dict[str, np.ndarray]:
    """Random parameters on the host, norms near one and biases not zero; a mesh must be set. Quicker than compiling backbone.initialise."""
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(shape.shape, np.float32) for name, shape in sorted(abstract(settings, architecture).items())}
    return {name: 1 + 0.1 * value if "norm" in name else scale * value for name, value in values.items()}


def on_mesh(settings: config.Model, architecture: str, values: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """The same parameters, sharded over the mesh that is set."""
    return {name: jax.device_put(values[name], shape.sharding) for name, shape in abstract(settings, architecture).items()}


def document(rng: np.random.Generator, pieces: list[int | tuple[int, int]]) -> Document:
    """A document of pieces: numbers of text tokens, and (rows, columns) of images in visual tokens. Two thirds of the text has labels."""
    tokens, grids = [], []
    for piece in pieces:
        if isinstance(piece, tuple):
            grids.append(piece)
        tokens += [IMAGE] * (piece[0] * piece[1]) if isinstance(piece, tuple) else rng.integers(0, IMAGE, piece).tolist()
    ids = np.array(tokens, np.int32)
    labels = np.where((ids != IMAGE) & (rng.random(len(ids)) < 2 / 3), ids, NO_LABEL).astype(np.int32)
    grid = np.array(grids, np.int32).reshape(-1, 2)
    visual = rng.integers(0, 256, (int(grid.prod(axis=1).sum()), VISUAL_TOKEN_BYTES), dtype=np.uint8)
    return Document(ids, labels, grid, visual)


def phase(context: int, visual: int) -> PhaseSettings:
    return PhaseSettings(
        name="tiny", rows=1, context=context, visual_tokens=visual, images=context, segments=context, min_pixels=1024, max_pixels=1 << 30,
        frames=0, frames_per_second=(1.0, 1.0), frame_pixels=1 << 30, mixture={}, loss_weighting="square",
    )  # fmt: skip


# Each row of 64 tokens has images that begin and end inside shards of 8 tokens, one of them over three shards.
ROWS = (
    ([5, (3, 5), 4, (2, 2), 3], [7, (1, 6), 9]),
    ([2, (2, 3), (3, 3), 6], [20], [4, (2, 4), 5]),
    ([(4, 5), 8], [11, (1, 1), 3], [6, (2, 5), 2]),
    ([1], [30, (3, 4), 12]),
)


def batch(rows: int, context: int = 64, visual: int = 32, seed: int = 0, pixels: bool = True) -> Batch:
    """Packed rows; documents of a row come from sources 0, 1, 2 in turn.

    Args:
      pixels: False leaves every image out.
    """
    rng = np.random.default_rng(seed)
    packed = []
    for row in range(rows):
        plan = ROWS[row % len(ROWS)]
        documents = [document(rng, [piece for piece in pieces if pixels or isinstance(piece, int)]) for pieces in plan]
        packed.append(pack(documents, [i % 3 for i in range(len(documents))], phase(context, visual if pixels else 0), IMAGE))
    return stack(packed)


def arranged(rows: Batch) -> Batch:
    """A batch whose rows are cut for the context shards of the mesh that is set."""
    shards = jax.sharding.get_mesh().shape["context"]
    return stack([arrange(map_arrays(lambda array, row=row: array[row], rows), shards) for row in range(len(rows.targets))])


def one_pass(rows: Batch) -> Batch:
    """A batch with an axis for one pass of gradient accumulation."""
    return map_arrays(lambda array: array[None], rows)
