"""A report in a folder: the figures for programs, and last the page for people, which says that all is there."""

import json
from pathlib import Path
from typing import Any

from everlearn.checkpoint import write


def written(folder: str | Path, figures: dict[str, Any], page: str) -> Path:
    """Writes `report.json` and, last, `report.html`, each whole or not at all; returns the page."""
    place = Path(folder)
    text = json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write(place / "report.json", text.encode())
    write(place / "report.html", page.encode())
    return place / "report.html"
