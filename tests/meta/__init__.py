"""The project's rules about itself."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "privkit"


def sources() -> list[Path]:
    """Every module of the library."""
    return sorted(SOURCE.rglob("*.py"))


def texts(*places: str) -> list[Path]:
    """Every text file below these files and folders of the project, as far as they exist."""
    found = []
    for place in places:
        start = ROOT / place
        candidates = [start] if start.is_file() else sorted(start.rglob("*"))
        found += [path for path in candidates if path.is_file() and _is_text(path)]
    return found


def _is_text(path: Path) -> bool:
    return "__pycache__" not in path.parts and b"\0" not in path.read_bytes()[:4096]
