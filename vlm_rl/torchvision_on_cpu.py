"""Lets torchvision be imported beside a CPU-only torch; does nothing with other builds of torch.

qwen-vl-utils, the image processors of transformers and (through torchmetrics) Lightning import
torchvision. The package registry has torchvision only as a CUDA build. A CPU-only torch cannot load
its compiled operators, so its import fails when it registers shape functions for them. Declaring
the schemas of two operators first is enough: resizing and normalising are plain torch code.

The declaration waits for the first import of torchvision, so that light processes (the answer
checkers) never import torch.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []  # a torch Library withdraws its schemas when it is collected


class _DeclareFirst(importlib.abc.MetaPathFinder):
    """Finds no module; declares the schemas when torchvision is first imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None and torch.version.hip is None:
                library = torch.library.Library("torchvision", "FRAGMENT")
                for schema in _SCHEMAS:
                    library.define(schema)
                _libraries.append(library)
        return None


def install() -> None:
    """Arm the declaration once per process; do nothing if torchvision is already imported."""
    armed = any(isinstance(finder, _DeclareFirst) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not armed:
        sys.meta_path.insert(0, _DeclareFirst())
