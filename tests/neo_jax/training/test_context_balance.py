"""The demo's rows on context shards."""

import dataclasses

import pytest

from benchmarks.context_balance import packed_rows, ratios
from configs.demo import get_config
from neo_jax.config import Config


@pytest.mark.parametrize("mixture", [{"video": 1.0}, None], ids=["video", "all"])
def test_the_busiest_shard_is_near_the_mean(corpus, tmp_path, mixture, record_property):
    config = get_config()
    config.run.directory, config.data.index_folder = str(tmp_path / "run"), str(tmp_path / "index")
    config.tokenizer.path = str(corpus / "tokenizer.model")
    for source in (*config.data.sources.values(), *config.data.heldout.values()):
        source.path = source.path.replace("runs/demo/corpus", str(corpus))
        source.media_root = source.media_root.replace("runs/demo/corpus", str(corpus))
    settings = Config.from_config_dict(config)
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, heldout={}))
    rows = packed_rows(settings, mixture or dict(settings.phases[-1].mixture), 8)
    for shards in (2, 4, 8):
        dealt, plain = ratios(rows, shards)
        record_property(f"{shards} shards", (max(dealt), max(plain)))
        assert max(dealt) <= 1.1, (shards, dealt)
