"""Plain tables, and the table of what differs between two runs. All texts are data: they are escaped, or set as text by the script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
.plain { border-collapse: collapse; font-size: 13.5px; } .plain th, .plain td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid
  var(--hair); white-space: nowrap; } .scroll { overflow-x: auto; } select { font: inherit; max-width: 100%; }
"""
SCRIPT = """
const runs = JSON.parse(document.getElementById("runs").textContent);
const pick = [...document.querySelectorAll("select")], body = document.getElementById("differences");
for (const select of pick) runs.forEach((run, place) => select.append(new Option(run.label, place)));
pick[1].selectedIndex = Math.min(1, runs.length - 1);
function show() {
  const [a, b] = pick.map(select => runs[select.selectedIndex].values);
  body.replaceChildren();
  for (const key of new Set([...Object.keys(a), ...Object.keys(b)])) {
    if (a[key] === b[key]) continue;
    const row = body.insertRow();
    for (const value of [key, a[key] ?? "", b[key] ?? ""]) row.insertCell().textContent = value;
  }
}
pick.forEach(select => select.addEventListener("change", show));
show();
"""


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of texts."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def differences(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Returns two menus of runs, and a table of the keys whose values differ between the two that are chosen; once a page.

    Args:
      runs: label, and texts by key, of each run.
    """
    data = json.dumps([{"label": label, "values": dict(values)} for label, values in runs])
    contents = data.replace("<", "\\u003c")  # no text may end the element
    return (
        f'<p><select aria-label="first run"></select> <select aria-label="second run"></select></p><div class="scroll"><table class="plain"><thead>'
        f'<tr><th>key</th><th>first</th><th>second</th></tr></thead><tbody id="differences"></tbody></table></div>'
        f'<script type="application/json" id="runs">{contents}</script><script>{SCRIPT}</script>'
    )
