"""The training step of benchmarks/train_step.py written plainly in PyTorch: needs torch and numpy, not jax. `make benchmark-step` runs it.

Reads what train_step.py recorded (parameters, batches, learning rates), repeats its steps with and without torch.compile, writes the losses, and
then times either on request. Dense boolean masks, full logits, the fused AdamW.

Shape legend: B rows, L tokens, V visual tokens, D hidden, N query heads, K key heads, H head width.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.worker import serve

PATCH, MERGE = 16, 2  # pixels of a patch's side; patches of a visual token's side
MEAN, STANDARD_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
KINDS = ("eager", "compile")


def angles(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., width / 2] of rotary positions [...]."""
    angle = positions[..., None].float() * theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    return angle.cos(), angle.sin()


def rotate_halves(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotates channel i of x [B, L, heads, width] with channel i + width / 2."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def rotate_pairs(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotates channel 2i of x [..., width] with channel 2i + 1."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2)


class PatchEmbedding(nn.Module):
    """Pixels [B, V, 3072] uint8 of 32 x 32 blocks to visual tokens [B, V, D]."""

    def __init__(self, model: dict):
        super().__init__()
        self.channels, self.theta = model["patch_channels"], model["patch_rope_theta"]
        self.patch = nn.Linear(PATCH * PATCH * 3, self.channels)
        self.merge = nn.Linear(MERGE * MERGE * self.channels, model["hidden"])
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("deviation", torch.tensor(STANDARD_DEVIATION), persistent=False)

    def forward(self, visual: Tensor, position: Tensor) -> Tensor:
        b, v = visual.shape[:2]
        pixels = (visual.view(b, v, MERGE, PATCH, MERGE, PATCH, 3).float() / 255 - self.mean) / self.deviation
        x = F.gelu(self.patch(pixels.transpose(3, 4).reshape(b, v, MERGE, MERGE, -1)))
        step = torch.arange(MERGE)
        row = (position[..., 0, None, None] * MERGE + step[:, None]).expand(b, v, MERGE, MERGE)
        column = (position[..., 1, None, None] * MERGE + step).expand(b, v, MERGE, MERGE)
        by_column, by_row = x.chunk(2, dim=-1)
        by_column = rotate_pairs(by_column, *angles(column, self.channels // 2, self.theta))
        by_row = rotate_pairs(by_row, *angles(row, self.channels // 2, self.theta))
        return self.merge(torch.cat([by_column, by_row], dim=-1).flatten(2))


class Attention(nn.Module):
    """Grouped-query attention; queries and keys are a temporal part of width H, and parts for height and width of H / 2 each."""

    def __init__(self, model: dict):
        super().__init__()
        d, n, k, h, epsilon = model["hidden"], model["heads"], model["kv_heads"], model["head_dim"], model["norm_epsilon"]
        self.width = h
        self.q, self.q_hw = nn.Linear(d, n * h, bias=False), nn.Linear(d, n * h, bias=False)
        self.k, self.k_hw = nn.Linear(d, k * h, bias=False), nn.Linear(d, k * h, bias=False)
        self.v, self.o = nn.Linear(d, k * h, bias=False), nn.Linear(n * h, d, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(h, epsilon), nn.RMSNorm(h, epsilon)
        self.q_norm_h, self.q_norm_w = nn.RMSNorm(h // 2, epsilon), nn.RMSNorm(h // 2, epsilon)
        self.k_norm_h, self.k_norm_w = nn.RMSNorm(h // 2, epsilon), nn.RMSNorm(h // 2, epsilon)

    def _parts(self, x: Tensor, x_hw: Tensor, norms: tuple[nn.Module, ...], rope: tuple) -> Tensor:
        """[B, heads, L, 2H]"""
        parts = (x.unflatten(-1, (-1, self.width)), *x_hw.unflatten(-1, (-1, self.width)).chunk(2, dim=-1))
        return torch.cat([rotate_halves(norm(part), *at) for part, norm, at in zip(parts, norms, rope, strict=True)], dim=-1).transpose(
            1, 2
        )

    def forward(self, x: Tensor, rope: tuple, mask: Tensor) -> Tensor:
        q = self._parts(self.q(x), self.q_hw(x), (self.q_norm, self.q_norm_h, self.q_norm_w), rope)
        k = self._parts(self.k(x), self.k_hw(x), (self.k_norm, self.k_norm_h, self.k_norm_w), rope)
        v = self.v(x).unflatten(-1, (-1, self.width)).transpose(1, 2)
        # Values padded to the width of the keys: with unequal widths PyTorch takes its unfused path, twice as slow on a CPU.
        out = F.scaled_dot_product_attention(q, k, F.pad(v, (0, self.width)), attn_mask=mask, scale=self.width**-0.5, enable_gqa=True)
        return self.o(out[..., : self.width].transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, model: dict):
        super().__init__()
        d, f, epsilon = model["hidden"], model["mlp"], model["norm_epsilon"]
        self.attention_norm, self.mlp_norm = nn.RMSNorm(d, epsilon), nn.RMSNorm(d, epsilon)
        self.attention = Attention(model)
        self.gate, self.up, self.down = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False), nn.Linear(f, d, bias=False)

    def forward(self, x: Tensor, rope: tuple, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, mask)
        normed = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Neo(nn.Module):
    """The model with its loss: a batch in, the weighted mean cross-entropy out. The output matrix is the embedding."""

    def __init__(self, model: dict):
        super().__init__()
        self.model = model
        self.embedding = nn.Embedding(model["vocabulary"], model["hidden"])
        self.patch_embedding = PatchEmbedding(model)
        self.layers = nn.ModuleList(Layer(model) for _ in range(model["pre_buffer_layers"] + model["base_layers"]))
        self.final_norm = nn.RMSNorm(model["hidden"], model["norm_epsilon"])

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embedding(batch["tokens"])
        visual = self.patch_embedding(batch["visual"], batch["visual_position"])
        slot = batch["visual_slot"][..., None]
        x = torch.where(slot >= 0, visual.gather(1, slot.clamp(min=0).expand(x.shape)), x)
        key = torch.arange(x.shape[1])
        lo, hi = batch["lo"][..., None], batch["hi"][..., None]
        mask = ((key >= lo) & (key < hi))[:, None]  # [B, 1, L, L]
        h, t, hw = self.model["head_dim"], self.model["rope_theta"], self.model["rope_theta_hw"]
        kinds = zip(batch["positions"].unbind(-1), (h, h // 2, h // 2), (t, hw, hw), strict=True)
        rope = tuple(tuple(part[:, :, None] for part in angles(*each)) for each in kinds)
        for layer in self.layers:
            x = layer(x, rope, mask)
        logits = F.linear(self.final_norm(x), self.embedding.weight)
        losses = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="none")
        weights = batch["loss_weights"].flatten()
        return (losses * weights).sum() / weights.sum()


def load_parameters(module: Neo, arrays: dict[str, np.ndarray]) -> None:
    """Copies the recorded parameters (stacked layers, inputs in front of outputs) into the module. Every one must find its place."""
    state: dict[str, Tensor] = {}
    first = {"pre_buffer": 0, "base": module.model["pre_buffer_layers"]}
    for name, array in arrays.items():
        stack, _, rest = name.partition(".")
        if stack in first:
            for number, layer in enumerate(array):
                state[f"layers.{first[stack] + number}.{rest.removeprefix('mlp.')}.weight"] = linear(rest, layer)
        elif name.endswith("_bias"):
            state[f"{name.removesuffix('_bias')}.bias"] = torch.from_numpy(array)
        else:
            state[f"{name}.weight"] = linear(name, array)
    module.load_state_dict(state, strict=True)


def linear(name: str, array: np.ndarray) -> Tensor:
    """The weight of a recorded parameter as nn.Linear holds it, [outputs, inputs]; embeddings and norms as they are."""
    if name == "embedding" or array.ndim == 1:
        return torch.from_numpy(array)
    outputs = array.shape[1:] if name.startswith("attention.") and not name.endswith(".o") else array.shape[-1:]
    return torch.from_numpy(array.reshape(-1, int(np.prod(outputs))).T.copy())


class Step:
    """One training step after another, eager or compiled, from recorded parameters over recorded batches."""

    def __init__(self, record: dict[str, np.ndarray], compiled: bool):
        settings = json.loads(str(record["settings"]))
        optimizer = settings["optimizer"]
        module = Neo(settings["model"])
        load_parameters(module, group(record, "parameters/"))
        self._parameters = list(module.parameters())
        matrices = [parameter for parameter in self._parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in self._parameters if parameter.ndim == 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": optimizer["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}],
            betas=(optimizer["beta1"], optimizer["beta2"]),
            eps=optimizer["epsilon"],
            fused=True,
        )
        self._clip = optimizer["clip_norm"]
        self._loss: Callable[[dict[str, Tensor]], Tensor] = torch.compile(module, dynamic=False, fullgraph=True) if compiled else module
        arrays = {name: array.astype(np.int64) if array.dtype == np.int32 else array for name, array in group(record, "batch/").items()}
        steps = len(record["learning_rate"])
        self._batches = [{name: torch.from_numpy(array[step]) for name, array in arrays.items()} for step in range(steps)]
        self._rate = float(record["learning_rate"][-1])
        self.losses = self._run(self._batches, record["learning_rate"].tolist())

    def _run(self, batches, rates) -> list[float]:
        losses = []
        for batch, rate in zip(batches, rates, strict=True):
            loss = self._loss(batch)
            loss.backward()
            nn.utils.clip_grad_norm_(self._parameters, self._clip)
            for parameters in self._optimizer.param_groups:
                parameters["lr"] = rate
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        return [float(loss) for loss in losses]

    def seconds(self, steps: int) -> float:
        """Returns the time of `steps` steps on the batches in turn, at the last learning rate."""
        batches = list(itertools.islice(itertools.cycle(self._batches), steps))
        start = time.perf_counter()
        self._run(batches, [self._rate] * steps)
        return time.perf_counter() - start


def group(record: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in record.items() if name.startswith(prefix)}


def main(folder: pathlib.Path) -> None:
    timers: dict[str, Callable[[int], float]] = {}
    for path in sorted(folder.glob("step_*.npz")):
        with np.load(path, allow_pickle=False) as file:
            record = dict(file)
        steps = {kind: Step(record, kind == "compile") for kind in KINDS}
        name = path.stem.removeprefix("step_")
        np.savez(
            folder / f"torch_{name}.npz",
            version=np.array(torch.__version__),
            **{kind: np.array(step.losses) for kind, step in steps.items()},
        )
        timers |= {f"{name}_{kind}": step.seconds for kind, step in steps.items()}
    serve(timers)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
