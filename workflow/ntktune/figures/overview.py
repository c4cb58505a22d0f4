"""A study's results in a few lines of plain text, for a terminal."""

from __future__ import annotations

import textwrap

import pandas as pd


def _plain_table(rows: list[list[str]]) -> str:
    """Return rows as lines with aligned columns, the first to the left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    return "-" if pd.isna(value) else f"{value:.{digits}f}"


def overview(rates: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Return decay rates and verdicts as text.

    Parameters
    ----------
    rates
        Table 1: columns task, exponent, r_squared, predicted_rate, measured_exponent.
    verdicts
        The verdict table: columns claim, verdict.
    """
    rows = [["task", "decay exponent a", "R²", "predicted rate a/(a+1)", "measured rate"]]
    for row in rates.to_dict("records"):
        digits = {"exponent": 2, "r_squared": 3, "predicted_rate": 2, "measured_exponent": 2}
        rows.append([row["task"], *(_number(row[key], n) for key, n in digits.items())])
    claims = []
    for row in verdicts.to_dict("records"):
        lines = textwrap.wrap(row["claim"], width=78)
        claims.append(f"  {row['verdict']:<15}" + f"\n{'':17}".join(lines))
    return "\n\n".join([_plain_table(rows), "\n".join(claims)])
