"""Files: written whole or not at all, and read wherever they lie, on a local disk or in an object store.

Importing this imports no client of an object store.
"""

from data_pipelines.storage.whole import write_whole

__all__ = ["write_whole"]
