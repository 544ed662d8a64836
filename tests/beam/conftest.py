"""Lets the tests of this folder import tests/data_pipelines/small_corpus, and makes them an object store that Apache Beam knows."""

import pathlib
import sys

import pytest
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem
from apache_beam.runners.portability.prism_runner import PrismRunner

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "data_pipelines"))

SCHEME = "store://"


class StoreFileSystem(LocalFileSystem):
    """Objects store://KEY, which are files of a folder. No path of a disk leads to them."""

    root = pathlib.Path()

    @classmethod
    def scheme(cls):
        return "store"

    @classmethod
    def path(cls, address):
        assert address.startswith(SCHEME), address
        return str(cls.root / address.removeprefix(SCHEME))

    def _list(self, dir_or_prefix):
        for path in sorted(path for path in self.root.rglob("*") if path.is_file()):
            address = f"{SCHEME}{path.relative_to(self.root)}"
            if address.startswith(dir_or_prefix):
                yield FileMetadata(address, path.stat().st_size, path.stat().st_mtime)

    def has_dirs(self):
        return False

    def mkdirs(self, path):
        pass

    def create(self, path, *more, **options):
        return super().create(self.path(path), *more, **options)

    def open(self, path, *more, **options):
        return super().open(self.path(path), *more, **options)

    def exists(self, path):
        return pathlib.Path(self.path(path)).is_file()

    def metadata(self, path):
        return next(found for found in self._list(path) if found.path == path)

    def size(self, path):
        return super().size(self.path(path))

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        folder, _, name = path.rpartition("/")
        return folder, name

    def rename(self, source_file_names, destination_file_names):
        for name in destination_file_names:
            pathlib.Path(self.path(name)).parent.mkdir(parents=True, exist_ok=True)
        super().rename([*map(self.path, source_file_names)], [*map(self.path, destination_file_names)])

    def delete(self, paths):
        for path in paths:
            for found in list(self._list(path)):
                pathlib.Path(self.path(found.path)).unlink()


@pytest.fixture(autouse=True)
def _no_prism(monkeypatch):
    """Beam's DirectRunner hands pipelines to its runner Prism where that is there or can be fetched. Tests run the same everywhere."""

    def refuse(*_):
        raise RuntimeError("no Prism in tests")

    monkeypatch.setattr(PrismRunner, "run_pipeline", refuse)


@pytest.fixture
def store(tmp_path):
    """The folder whose files are the objects of store://."""
    StoreFileSystem.root = tmp_path / "objects"
    StoreFileSystem.root.mkdir()
    return StoreFileSystem.root
