"""An exported Qwen3 is what transformers loads: `make test-transformers`, with PyTorch and transformers in an environment of their own."""

import pathlib
import subprocess

import jax
import numpy as np
import pytest

from configs.demo import get_config
from data_pipelines.loading.prompts import prompt_inputs
from data_pipelines.schema import NO_LABEL, VISUAL_TOKEN_BYTES, Document
from data_pipelines.text.tokenizers import load_tokenizer
from neo_jax import export
from neo_jax.config import Config
from neo_jax.exit_codes import DONE
from neo_jax.inference.generate import greedy
from neo_jax.model.backbone import build
from neo_jax.model.computation import Computation
from neo_jax.places import open_place
from neo_jax.sharding import make_mesh, to_devices
from tests.neo_jax.saved_run import saved_run

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = ROOT / ".venv-torch" / "bin" / "python"


@pytest.mark.parametrize("tied", [True, False])
def test_a_text_phase_is_loaded(tmp_path, tied):
    """Logits to 1e-4 and greedy tokens: rotary embedding, norms of queries and keys, grouped heads, tied embeddings."""
    values = get_config("smoke")
    values.model.update({"hidden": 64, "mlp": 96, "heads": 4, "kv_heads": 2, "head_dim": 16, "base_layers": 3, "tied": tied})
    values.tokenizer.path = str(ROOT / "tests" / "golden" / "tokenizer.json")
    values.model.vocabulary = 768
    values.curriculum = ("text",)
    values.phases = {"text": values.phases["text"]}
    run = saved_run(tmp_path / "run", Config.from_config_dict(values))
    assert export.main([f"--checkpoint={run}", f"--output={tmp_path / 'out'}"]) == DONE

    ids = np.random.default_rng(0).integers(5, 600, (2, 24)).astype(np.int32)
    np.save(tmp_path / "ids.npy", ids)
    command = [str(PYTHON), str(ROOT / "tests" / "transformers" / "answer.py")]
    subprocess.run([*command, str(tmp_path / "out"), str(tmp_path / "ids.npy"), str(tmp_path / "theirs.npz")], check=True)
    theirs = np.load(tmp_path / "theirs.npz")
    assert theirs["kind"] == "Qwen3ForCausalLM"

    place = open_place(str(run))
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        parameters = place.parameters("float32")
        image_token = load_tokenizer(values.tokenizer.path, True).special["<IMG_CONTEXT>"]
        documents = [
            Document(row, np.full_like(row, NO_LABEL), np.zeros((0, 2), np.int32), np.zeros((0, VISUAL_TOKEN_BYTES), np.uint8))
            for row in ids
        ]
        prompts = to_devices(prompt_inputs(documents, ids.shape[1], 0, image_token))
        computation = Computation(place.architecture, "float32")
        backbone = build(place.model, computation.architecture, parameters)
        logits = np.asarray(backbone.logits(backbone(prompts, computation)))
        written = greedy(place.model, computation, parameters, prompts, 8, -1)
    np.testing.assert_allclose(logits, theirs["logits"], atol=1e-4)
    np.testing.assert_array_equal(written, theirs["written"][:, ids.shape[1] :])
