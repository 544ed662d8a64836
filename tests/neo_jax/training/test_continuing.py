import pathlib
from types import SimpleNamespace

import pytest

from neo_jax.runs.directory import RunDirectoryError
from neo_jax.training import inputs
from neo_jax.training.continuing import check_data


def data():
    opened = SimpleNamespace(tokenizer=SimpleNamespace(fingerprint="t"), indexes=[])
    return SimpleNamespace(identity=inputs.RunData.identity.func(opened))


def test_a_run_of_a_version_with_another_order_of_rows_is_refused(monkeypatch):
    directory = SimpleNamespace(path=pathlib.Path("run"))
    record = SimpleNamespace(data=data().identity, position=SimpleNamespace(step=7))
    check_data(directory, record, data())
    monkeypatch.setattr(inputs, "ORDER_VERSION", inputs.ORDER_VERSION + 1)
    with pytest.raises(RunDirectoryError, match=r"the order of rows changed since step 7.*the version of neo_jax"):
        check_data(directory, record, data())
