"""The folder of a run: what lies where in it."""

from pathlib import Path

WEIGHTS = (".pth", ".pt", ".safetensors")
"""The suffixes of files of weights."""


def folder_of(out: str | Path) -> Path:
    """The folder of a run: `--out` itself, or without its suffix if it names a file of weights."""
    path = Path(out)
    return path.with_suffix("") if path.suffix in WEIGHTS else path


def weights_of(out: str | Path) -> tuple[Path, ...]:
    """The files of weights that a run makes: `--out` if it names one, and in the folder one of either format."""
    path = Path(out)
    if path.suffix not in WEIGHTS:
        return path / "model.pth", path / "model.safetensors"
    inside = folder_of(path) / path.stem
    return path, inside.with_name(f"{path.stem}.pth"), inside.with_name(f"{path.stem}.safetensors")


def done(out: str | Path) -> bool:
    """Whether the run in a folder is done: the page of its report is what it writes last."""
    return (folder_of(out) / "report.html").is_file()


def file_name(name: str) -> str:
    """A name that files can have."""
    return "".join(c if c.isalnum() or c in "+-=." else "_" for c in name)
