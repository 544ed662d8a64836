"""Builds the HTML page of a phase: a single file without scripts or links to other sites."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines.inspection import drawing
from data_pipelines.inspection.gather import PhaseFacts, ShownDocument, ShownRow, SourceFacts
from data_pipelines.schema import NO_LABEL, Document
from data_pipelines.text.tokenizers import Tokenizer

PICTURES = 6  # largest number of thumbnails of a document
CHARACTERS = 1500  # largest number of characters of a document's text
DOCUMENTS = 8  # largest number of documents of a row whose text is shown

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 0 auto; padding: 24px; color: #1c1e21; background: #fff; }
h1 { font-size: 26px; } h2 { font-size: 19px; margin-top: 36px; } h3 { font-size: 15px; margin-bottom: 4px; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid #ddd;
  vertical-align: top; font-variant-numeric: tabular-nums; }
.strip { width: 100%; display: block; } .padding { fill: #e5e6e8; } .document { stroke: #fff; stroke-width: 1; }
.image { fill: #1c1e21; } .labels { fill: #d6336c; }
.mask { width: 180px; } .mask polygon { fill: #4269d0; } .mask .frame { fill: none; stroke: #bbb; }
.histograms { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px; } .histogram { margin: 0; }
.histogram rect { fill: #4269d0; } figcaption, .note { font-size: 13px; color: #5a5e66; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin-right: 4px; }
.told { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f7f8; border-radius: 8px; padding: 10px; font-size: 13.5px; }
.told mark { background: #fbd3e0; } .pictures img { margin: 0 6px 6px 0; border-radius: 4px; }
.warning { background: #fff4e0; border: 1px solid #efb118; border-radius: 8px; padding: 10px 14px; } nav a { margin-right: 14px; }
@media (prefers-color-scheme: dark) { body { background: #17181b; color: #e6e7e9; } .told { background: #222429; } .image { fill: #e6e7e9; }
  .padding { fill: #33363c; } th, td { border-color: #333; } .told mark { background: #7c2846; color: #fff; } .warning { background: #33290f; } }
"""


def page(facts: PhaseFacts, names: Sequence[str], overlap: Sequence[str], tokenizer: Tokenizer, source_numbers: dict[str, int]) -> str:
    """Returns the page of a phase as HTML.

    Args:
      facts: facts about the phase.
      names: names of all phases; each has a page NAME.html in the same folder.
      overlap: sentences about duplicates and leaks.
      tokenizer: tokenizer that decodes the texts.
      source_numbers: index of each source by name, as in batches; it determines the source's colour.
    """
    phase = facts.phase
    links = "".join(f'<a href="{html.escape(name)}.html">{html.escape(name)}</a>' for name in names)
    fill = ", ".join(f"{name} {share:.1%}" for name, share in facts.fill.items())
    warnings = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in overlap)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Input of phase {html.escape(phase.name)}</title><style>{STYLE}</style></head><body>
<nav>{links}</nav>
<h1>Input of phase {html.escape(phase.name)}</h1>
<p>{phase.rows:,} rows of {phase.context:,} tokens. The first {facts.planned:,} rows as planned use: {fill}.</p>
{f'<div class="warning"><b>Duplicates and overlap</b><ul>{warnings}</ul></div>' if overlap else ""}
<h2>Sources</h2>
{_sources(facts.sources, source_numbers)}
<h2>Lengths</h2>
<div class="histograms">
{drawing.histogram(facts.lengths[:, 0].astype(float), "Documents", "tokens")}
{drawing.histogram(facts.lengths[facts.lengths[:, 1] > 0, 1].astype(float), "Documents with pictures", "visual tokens")}
{drawing.histogram(facts.fills * 100, "Rows", "% of the context")}
{drawing.histogram(facts.sizes.prod(axis=1) / 1e6, "Pictures in files", "megapixels")}
{drawing.histogram(_aspects(facts.sizes), "Pictures in files", "width / height")}
{drawing.histogram(np.array(facts.frames, float), "Clips", "frames shown")}
</div>
<h2>The first rows</h2>
<p class="note">Documents in the colours of their sources; black: image tokens; red: tokens that carry a loss; grey: padding. The blue shape is
the mask: for each token, downwards, the tokens that it sees.</p>
{"".join(_row(number, row, tokenizer) for number, row in enumerate(facts.rows))}
</body></html>
"""


def _sources(sources: Sequence[SourceFacts], numbers: dict[str, int]) -> str:
    rows = "".join(
        f'<tr><td><span class="key" style="background:{drawing.colour(numbers[source.name])}"></span>{html.escape(source.name)}</td>'
        f"<td>{source.weight:.1%}</td><td>{source.tokens:.1%}</td><td>{source.usable:,}</td>"
        f"<td>{source.epochs[0]:.2f} to {source.epochs[1]:.2f}</td><td>{'<br>'.join(map(html.escape, source.dropped)) or 'nothing'}</td></tr>"
        for source in sources
    )
    heads = ("source", "samples", "tokens", "usable samples", "epochs over the run", "left out, converted, not read")
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{rows}</table>"


def _row(number: int, row: ShownRow, tokenizer: Tokenizer) -> str:
    titles = [
        (shown.start, len(shown.document.tokens), f"{shown.source}/{shown.key}: {len(shown.document.tokens):,} tokens")
        for shown in row.documents
    ]
    failures = "".join(f'<p class="note">left out: {html.escape(failure)}</p>' for failure in row.failures)
    told = "".join(_document(shown, tokenizer) for shown in row.documents[:DOCUMENTS])
    more = len(row.documents) - DOCUMENTS
    return (
        f"<h3>Row {number}: {len(row.documents)} documents</h3>{drawing.strip(row.batch, titles, f'row {number}')}{failures}"
        f"{drawing.mask(row.batch, f'mask of row {number}')}<details{' open' if number == 0 else ''}><summary>Documents</summary>{told}"
        f"{f'<p class=note>and {more} more</p>' if more > 0 else ''}</details>"
    )


def _document(shown: ShownDocument, tokenizer: Tokenizer) -> str:
    document = shown.document
    ends = np.cumsum(document.grids.prod(axis=1))
    pictures = "".join(
        drawing.thumbnail(document.visual[end - rows * columns : end], rows, columns)
        for (rows, columns), end in list(zip(document.grids.tolist(), ends.tolist(), strict=True))[:PICTURES]
    )
    more = len(document.grids) - PICTURES
    return (
        f"<h3>{html.escape(shown.source)}/{html.escape(shown.key)}</h3><p class=note>{len(document.tokens):,} tokens, "
        f"{int((document.labels != NO_LABEL).sum()):,} of them learned, {len(document.grids)} pictures"
        f"{f', {more} of them not shown' if more > 0 else ''}</p>"
        f'<div class="pictures">{pictures}</div><div class="told">{marked_text(document, tokenizer)}</div>'
    )


def marked_text(document: Document, tokenizer: Tokenizer) -> str:
    """Returns the text of a document as HTML. Tokens with labels are marked; a run of image tokens is replaced by their number."""
    pad = tokenizer.special["<IMG_CONTEXT>"]
    kinds = np.where(document.tokens == pad, 2, document.labels != NO_LABEL).astype(np.int8)
    parts: list[str] = []
    shown = 0
    for start, end in _stretches(kinds):
        tokens = document.tokens[start:end]
        text = f"[{end - start} image tokens]" if kinds[start] == 2 else tokenizer.decode(tokens.tolist())
        text = text[: max(CHARACTERS - shown, 0)]
        shown += len(text)
        escaped = html.escape(text)
        parts.append(f"<mark>{escaped}</mark>" if kinds[start] == 1 else escaped)
    return "".join(parts) + (" [...]" if shown >= CHARACTERS else "")


def _stretches(kinds: npt.NDArray[np.int8]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(kinds)) + 1
    bounds = [0, *edges.tolist(), len(kinds)]
    return list(itertools.pairwise(bounds))


def _aspects(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return sizes[:, 1] / np.maximum(sizes[:, 0], 1)
