"""A small procedurally generated corpus with exact answers, in the file formats of users' data."""

from data_pipelines.scenes.writing import FAMILIES, MAKERS, ScenesSettings, texts, write_scenes

__all__ = ["FAMILIES", "MAKERS", "ScenesSettings", "texts", "write_scenes"]
