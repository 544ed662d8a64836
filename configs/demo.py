"""A NEO of 1.6 million parameters through its whole curriculum, on a corpus that the demo draws itself. Minutes on two cores.

python -m neo_jax.demo                                                     (draws the corpus, trains, answers, reports)
python -m neo_jax.train --config=configs/demo.py                           (trains alone, the corpus being there)
python -m neo_jax.demo --config=configs/demo.py:smoke                      (a few steps a phase)
"""

from __future__ import annotations

from ml_collections import ConfigDict

ROOT = "runs/demo"
CORPUS = f"{ROOT}/corpus"
FAMILIES = (
    "text",
    "count",
    "colour",
    "shape",
    "reading",
    "left_right",
    "nearer",
    "distance",
    "difference",
    "motion",
    "order",
    "time",
)
SMOKE_STEPS = 3


def get_config(arg: str | None = None) -> ConfigDict:
    """The demo. arg "smoke": a few steps in each phase and few questions, to see that everything runs."""
    if arg not in (None, "smoke"):
        raise ValueError(f'configs/demo.py takes the argument "smoke" or none, not {arg!r}')
    config = ConfigDict()
    config.model = {
        "hidden": 128,
        "mlp": 384,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 32,
        "base_layers": 4,
        "pre_buffer_layers": 2,
        "vocabulary": 512,
        "tied": True,
        "patch_channels": 128,
    }
    config.tokenizer = {"path": f"{CORPUS}/tokenizer.model", "add_special_tokens": True}
    config.optimizer = {"weight_decay": 0.01, "clip_norm": 1.0}
    train = {name: _jsonl(f"train/{name}.jsonl") for name in ("text", "large", "multi", "video")}
    tfds = {"format": "tfds", "path": f"{CORPUS}/tfds/image/1.0.0", "media_root": ""}
    config.data = {
        "sources": {"text": train["text"], "image": tfds, "large": train["large"], "multi": train["multi"], "video": train["video"]},
        "heldout": {family: _jsonl(f"heldout/{family}.jsonl") for family in FAMILIES},
        "index_folder": f"{ROOT}/index",
        "threads": 1,
        "max_failure_rate": 0.01,
        "max_failure_run": 20,
        "minimum_samples": 100,
    }
    config.run = {
        "directory": f"{ROOT}/run",
        "seed": 0,
        "log_every": 10,
        "checkpoint_every": 200,
        "keep_checkpoints": 2,
        "heldout_every": 200,
        "heldout_rows": 2,
    }
    config.evaluation = {"questions": 250, "answer_tokens": 16, "rows": 32}
    everything = {"text": 1.0, "image": 3.0, "large": 1.0, "multi": 1.0, "video": 1.0}
    config.phases = {
        "text": _phase(context=128, rows=32, steps=300, learning_rate=2e-3, mixture={"text": 1.0}, architecture="qwen3"),
        "pretrain": _phase(context=256, rows=16, steps=400, learning_rate=2e-3, mixture={"image": 1.0}, trains="new", grid=9),
        "mid_256": _phase(context=256, rows=16, steps=600, learning_rate=1e-3, mixture={"text": 1.0, "image": 4.0, "multi": 1.0}, grid=9),
        "mid_512": _phase(context=512, rows=8, steps=600, learning_rate=1e-3, mixture=everything, grid=16, frames=8),
        "mid_1024": _phase(context=1024, rows=4, steps=600, learning_rate=1e-3, mixture=everything, grid=25, frames=16),
        "sft": _phase(
            context=1024, rows=4, steps=600, learning_rate=1e-3, mixture=everything, grid=25, frames=16, minimum_ratio=0.02, carry=False
        ),
    }
    config.curriculum = ("text", "pretrain", "mid_256", "mid_512", "mid_1024", "sft")
    if arg == "smoke":
        for phase in config.phases.values():
            phase.steps = SMOKE_STEPS
        config.run.update({"directory": f"{ROOT}/smoke", "log_every": 1, "checkpoint_every": 2, "heldout_every": 2, "heldout_rows": 1})
        config.evaluation.update({"questions": 2, "answer_tokens": 4, "rows": 8})
    return config


def _jsonl(path: str) -> dict:
    return {"format": "jsonl", "path": f"{CORPUS}/{path}", "media_root": CORPUS}


def _phase(
    *,
    context: int,
    rows: int,
    steps: int,
    learning_rate: float,
    mixture: dict[str, float],
    grid: int = 0,
    frames: int = 0,
    architecture: str = "neo",
    trains: str = "all",
    minimum_ratio: float = 0.2,
    carry: bool = True,
) -> dict:
    """A phase whose images have at most `grid` visual tokens (0: text only)."""
    visual = context // 2 if grid else 0
    return {
        "architecture": architecture,
        "trains": trains,
        "context": context,
        "visual_tokens": visual,
        "images": visual // 4,
        "segments": context // 16,
        "min_pixels": 1024 if grid else 0,
        "max_pixels": 1024 * grid,
        "frames": frames,
        "frames_per_second": (1.0, 2.0),
        "frame_pixels": 1024 * min(grid, 9),
        "mixture": mixture,
        "steps": steps,
        "rows_per_step": rows,
        "accumulate": 1,
        "learning_rate": learning_rate,
        "minimum_ratio": minimum_ratio,
        "warmup_ratio": 0.05,
        "loss_weighting": "square",
        "carry_optimizer": carry,
        "remat": "none",
        "compute_dtype": "float32",
        "mesh": {"data": 1, "fsdp": 1, "context": 1, "tensor": 1},
        "resize": "exact",
    }
