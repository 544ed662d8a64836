"""Reads files of local disks and object stores, and writes files atomically.

Importing this package imports no client of an object store.
"""

from data_pipelines.storage.whole import write_whole

__all__ = ["write_whole"]
