"""A small procedural corpus with exact truth, in the format that users have."""

from data_pipelines.scenes.writing import FAMILIES, MAKERS, ScenesSettings, texts, write_scenes

__all__ = ["FAMILIES", "MAKERS", "ScenesSettings", "texts", "write_scenes"]
