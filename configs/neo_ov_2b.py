"""NEO-ov 2B: Qwen3-1.7B-Base with 12 pre-buffer layers, through pre-training, mid-training and supervised fine-tuning.

    python -m neo_jax.train --config=configs/neo_ov_2b.py --config.run.directory=/runs/neo_ov_2b \\
        --config.data.sources.pretrain.path=/data/pretrain.jsonl --config.data.sources.pretrain.media_root=/data/media ...
    python -m neo_jax.train --config=configs/neo_ov_2b.py:laptop      (a tiny model and few steps over the demo's corpus: make demo first)

Where a value comes from: [paper] NEO-ov, arXiv 2605.28820; [NEO paper] arXiv 2510.14979; [scripts] NEO's published training scripts;
[SenseNova-U1] the group's later training code; [Qwen3] the base model; [guess] nobody has published it.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import demo

SOURCES = ("pretrain", "text", "image_text", "multi_image", "video", "sft_image", "sft_multi_image", "sft_video")
HELDOUT = ("text", "image_text", "multi_image", "video")
LAPTOP_FILES = {  # what stands for each source in the demo's corpus
    "pretrain": "image",
    "text": "text",
    "image_text": "large",
    "multi_image": "multi",
    "video": "video",
    "sft_image": "large",
    "sft_multi_image": "multi",
    "sft_video": "video",
}
LAPTOP_SHRINK = 64  # a context of 36,864 becomes one of 576


def get_config(arg: str | None = None) -> ConfigDict:
    """NEO-ov 2B. arg "laptop": the same phases, shrunk until they run on a laptop."""
    if arg not in (None, "laptop"):
        raise ValueError(f'a NEO-ov configuration takes the argument "laptop" or none, not {arg!r}')
    config = ConfigDict()
    config.model = {
        "hidden": 2048,  # [Qwen3], as all of the shape but the pre-buffer
        "mlp": 6144,
        "heads": 16,
        "kv_heads": 8,
        "head_dim": 128,
        "base_layers": 28,
        "pre_buffer_layers": 12,  # [paper]
        "vocabulary": 151_936,
        "tied": True,
        "rope_theta": 1e6,
        "rope_theta_hw": 1e4,  # [paper]
        "patch_channels": 1024,  # [code of the released models]
        "patch_rope_theta": 1e4,  # [code of the released models]
        "norm_epsilon": 1e-6,
    }
    config.tokenizer = {"path": "checkpoints/Qwen3-1.7B-Base", "add_special_tokens": True}
    config.optimizer = {
        "beta1": 0.9,  # [scripts], as all below but epsilon
        "beta2": 0.95,
        "epsilon": 1e-8,  # [guess]: the usual one
        "weight_decay": 0.01,
        "clip_norm": 1.0,
    }
    config.data = {
        # Placeholders: set --config.data.sources.NAME.path and .media_root to your own files. "tfds" is the other format.
        "sources": {name: _source(name) for name in SOURCES},
        "heldout": {name: _source(f"heldout_{name}") for name in HELDOUT},
        "index_folder": "data/index",
        "threads": 16,
        "max_failure_rate": 0.01,
        "max_failure_run": 100,
    }
    config.run = {
        "directory": "runs/neo_ov_2b",
        "initial": "checkpoints/Qwen3-1.7B-Base",  # a folder as published: config.json, safetensors, tokenizer.json
        "seed": 0,
        "log_every": 10,
        "checkpoint_every": 1000,
        "keep_checkpoints": 3,
        "heldout_every": 2000,
        "heldout_rows": 64,
    }
    config.evaluation = {"questions": 1000, "answer_tokens": 64, "tokens": 524_288}
    config.phases = _phases()
    config.curriculum = ("pretrain", "mid_16k", "mid_24k", "mid_36k", "sft")
    if arg == "laptop":
        _shrink(config)
    return config


def _source(name: str) -> dict:
    return {
        "format": "jsonl",
        "path": f"data/{name}.jsonl",
        "media_root": "data/media",
        "pictures": "reference",  # [code of the released models]: transparency and EXIF orientation are ignored; "faithful" shows them
    }


def _phases() -> dict[str, dict]:
    # [paper] text : image-text : several images : video. [inferred] from the counts of samples in fine-tuning: 4M, 1M, 1M.
    mid_mixture = {"text": 2.0, "image_text": 4.0, "multi_image": 1.0, "video": 1.0}
    sft_mixture = {"sft_image": 4.0, "sft_multi_image": 1.0, "sft_video": 1.0}
    return {
        "pretrain": _phase(
            trains="new",  # [paper] patch embedding, pre-buffer, projections and norms of H and W
            context=16_384,  # [scripts] samples are packed to it; [guess] that NEO-ov keeps it
            max_pixels=1024 * 1024,  # [paper]
            frames=0,  # [paper] no video
            mixture={"pretrain": 1.0},  # [paper] image-text pairs from the web: captions, OCR
            steps=190_000,  # [NEO paper]; [guess] that NEO-ov keeps it
            rows_per_step=128,  # [guess] for 2,560 samples a step [NEO paper], about 20 in a row
            learning_rate=2e-4,  # [paper]
            minimum_ratio=0.1,  # [scripts]
        ),
        "mid_16k": _phase(
            context=16_384,  # [paper] 16K growing to 36K; [guess] its three sub-steps and how steps, pixels and frames grow with them
            max_pixels=2048 * 2048,  # [guess]: the 4096^2 of the paper fills this context alone
            frames=32,  # [guess]
            mixture=mid_mixture,
            steps=20_000,  # [guess] of 50,000 in all [NEO paper]
            rows_per_step=128,  # [guess] for 1,200 samples a step [NEO paper], about 10 in a row
            learning_rate=5e-5,  # [paper]
            minimum_ratio=0.2,  # [scripts]; [guess] that each sub-step has a schedule of its own
        ),
        "mid_24k": _phase(
            context=24_576,  # [guess]
            max_pixels=3072 * 3072,  # [guess]
            frames=64,  # [guess]
            mixture=mid_mixture,
            steps=15_000,  # [guess]
            rows_per_step=64,  # [guess]
            learning_rate=5e-5,  # [paper]
            minimum_ratio=0.2,  # [scripts]
            carry_optimizer=True,  # [guess]: one training that goes on
        ),
        "mid_36k": _phase(
            context=36_864,  # [paper]
            max_pixels=4096 * 4096,  # [paper]
            frames=128,  # [paper]
            mixture=mid_mixture,
            steps=15_000,  # [guess]
            rows_per_step=64,  # [guess]
            learning_rate=5e-5,  # [paper]
            minimum_ratio=0.2,  # [scripts]
            carry_optimizer=True,  # [guess]
        ),
        "sft": _phase(
            context=34_816,  # [scripts]; [guess] that NEO-ov keeps it
            max_pixels=4096 * 4096,  # [paper]
            frames=128,  # [paper]
            mixture=sft_mixture,
            steps=6_000,  # [NEO paper]; [guess] that NEO-ov keeps it
            rows_per_step=64,  # [guess] for 650 samples a step [NEO paper]
            learning_rate=5e-5,  # [paper]
            minimum_ratio=0.1,  # [scripts]
        ),
    }


def _phase(
    *,
    context: int,
    max_pixels: int,
    frames: int,
    mixture: dict[str, float],
    steps: int,
    rows_per_step: int,
    learning_rate: float,
    minimum_ratio: float,
    trains: str = "all",
    carry_optimizer: bool = False,  # [guess]: the published scripts start each stage on its own
) -> dict:
    return {
        "architecture": "neo",
        "trains": trains,
        "context": context,
        "visual_tokens": context - 1024,  # [guess]: 128 frames of 256 tokens leave little for words
        "images": 512,  # [guess]
        "segments": 512,  # [guess]
        "min_pixels": 256 * 256,  # [paper]
        "max_pixels": max_pixels,
        "frames": frames,
        "frames_per_second": (1.0, 4.0),  # [SenseNova-U1]
        "frame_pixels": 512 * 512,  # [SenseNova-U1]
        "mixture": mixture,
        "steps": steps,
        "rows_per_step": rows_per_step,
        "accumulate": 1,
        "learning_rate": learning_rate,
        "minimum_ratio": minimum_ratio,
        "warmup_ratio": 0.01,  # [paper]
        "loss_weighting": "square",  # [code of the released models]: the default
        "carry_optimizer": carry_optimizer,
        "remat": "full",  # [guess]
        "compute_dtype": "bfloat16",  # [guess]
        "mesh": {"data": -1, "fsdp": 8, "context": 2 if context > 16_384 else 1, "tensor": 1},  # [guess] for 128 devices [paper] of 80 GB
        "resize": "exact",
    }


def _shrink(config: ConfigDict) -> None:
    """The demo's model, tokenizer and corpus; each phase LAPTOP_SHRINK times shorter and a few steps long."""
    small = demo.get_config("smoke")
    config.model, config.tokenizer, config.evaluation = small.model, small.tokenizer, small.evaluation
    for name, source in config.data.sources.items():
        source.update({"path": f"{demo.CORPUS}/train/{LAPTOP_FILES[name]}.jsonl", "media_root": demo.CORPUS})
    config.data.heldout = small.data.heldout
    config.data.update({"index_folder": f"{config.run.directory}_laptop/index", "threads": 1})
    config.run.update(
        {
            "directory": f"{config.run.directory}_laptop",
            "initial": "",
            "log_every": 1,
            "checkpoint_every": 5,
            "heldout_every": 5,
            "heldout_rows": 1,
        }
    )
    for phase in config.phases.values():
        context = phase.context // LAPTOP_SHRINK
        visual_tokens = context // 2
        phase.update({"context": context, "visual_tokens": visual_tokens, "images": visual_tokens // 4, "segments": context // 16})
        phase.update({"min_pixels": 1024, "max_pixels": 25 * 1024, "frame_pixels": 9 * 1024, "frames": phase.frames // 8})
        phase.update({"steps": 5, "rows_per_step": 4, "warmup_ratio": 0.2, "remat": "none", "compute_dtype": "float32"})
        phase.mesh.update({"data": 1, "fsdp": 1, "context": 1, "tensor": 1})
