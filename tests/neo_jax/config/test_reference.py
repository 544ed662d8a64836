"""docs/configuration.md is what the dataclasses say."""

import dataclasses
import pathlib

import pytest

from neo_jax.config import reference
from neo_jax.config.documentation import field_descriptions
from neo_jax.config.fields import Positive

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_reference_is_current() -> None:
    assert DOCUMENT.read_text() == reference.reference(), "run: python -m neo_jax.config.reference > docs/configuration.md"


def test_it_has_type_range_default_meaning_and_whether_a_run_may_change_it() -> None:
    lines = DOCUMENT.read_text().splitlines()
    assert "| `optimizer.beta2` | number at least 0 and below 1 | `0.95` | decay rate of the second moment. | no |" in lines
    assert "| `data.threads` | whole number at least 1 | `2` | number of threads that decode samples. | yes |" in lines
    assert any(
        line.startswith("| `phases.NAME.mesh.fsdp` | whole number at least 1 | `1` |") and line.endswith("| yes |") for line in lines
    )
    assert any(
        line.startswith("| `data.heldout.NAME.path` | path or tuple of path | required |") and line.endswith("| yes |") for line in lines
    )


def test_descriptions_of_fields() -> None:
    class Kind:
        """A kind.

        Attributes:
          first, second: what both
            are.
          third: alone: with a colon.

        Other text.
          fourth: is none.
        """

    assert field_descriptions(Kind) == {"first": "what both are.", "second": "what both are.", "third": "alone: with a colon."}


def test_a_field_without_a_description_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Section:
        """A section."""

        rows: Positive = 1

    Section.__annotations__["rows"] = Positive  # the name is not global
    with pytest.raises(KeyError, match="Section does not describe rows"):
        reference._descriptions(Section)
