"""Camera relocalization: where a photo was taken, and how sure that is."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reloc.steps import build_map, evaluate, load_scene, localize, view

__all__ = ["build_map", "evaluate", "load_scene", "localize", "view"]


def __getattr__(name: str) -> Any:
    # On first use: `reloc --help` should not wait for torch.
    if name in __all__:
        from reloc import steps

        return getattr(steps, name)
    raise AttributeError(f"module 'reloc' has no attribute {name!r}")
