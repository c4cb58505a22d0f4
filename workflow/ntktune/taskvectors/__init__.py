"""Task vectors: their cosines, and models merged by adding them (SR26 section 5.2)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntktune.taskvectors.arithmetic import add, apply, cosine, scale, task_vector

__all__ = ["add", "apply", "cosine", "scale", "task_vector"]


def __getattr__(name: str) -> Any:
    """Import torch when one of the functions is asked for: tables of scores need none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ntktune.taskvectors import arithmetic

    return getattr(arithmetic, name)
