"""The figures of an evaluation as a table: one row per figure, one column per domain."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

_SHARES = ("pass_at_1", "format_rate", "truncated_fraction", "ungraded_fraction")


def evaluation_table(metrics: Mapping[str, float]) -> Table:
    """Return the table of metrics named `eval/FIGURE` and `eval/DOMAIN/FIGURE`."""
    parts = {name: name.split("/")[1:] for name in metrics if name.startswith("eval/")}
    domains = list(dict.fromkeys(part[0] for part in parts.values() if len(part) == 2))
    figures = list(dict.fromkeys(part[-1] for part in parts.values() if not part[-1].endswith("_stderr")))
    table = Table(box=box.SIMPLE, title="held-out", title_justify="left")
    for heading in ("", "all", *domains):
        table.add_column(heading, justify="left" if not heading else "right")
    for figure in figures:
        prefixes = ("eval/", *(f"eval/{domain}/" for domain in domains))
        table.add_row(
            figure.replace("pass_at_", "pass@").replace("_", " "),
            *(_cell(metrics, prefix + figure) for prefix in prefixes),
        )
    return table


def _cell(metrics: Mapping[str, float], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return ""
    if not name.endswith(_SHARES):
        return f"{value:.3f}"
    error = metrics.get(f"{name}_stderr")
    return f"{value:.1%}" + (f" ± {error * 100:.1f}" if error is not None else "")
