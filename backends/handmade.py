"""Small nets written for this suite, one for each pattern; `handmade:NAME`. Needs torch alone.

To add one, write a class or a function with `@net("name", input_shape, tags="...")` in a module of
`backends.nets`; a module that is new is imported in `backends/nets/__init__.py`.
"""

from __future__ import annotations

import torch

from backends.common import Drawn, reshaped, tagged
from backends.nets import NETS
from conformance.backend import Backend, unknown_name


class HandmadeCollection:
    """The handmade collection."""

    prefix = "handmade"

    def names(self) -> list[str]:
        """Every net, sorted."""
        return sorted(NETS)

    def get(self, name: str, input_shape: tuple[int, ...] | None = None) -> Backend:
        """The backend of a net; input_shape replaces the shape of its first argument.

        Raises UsageError for an unknown name or a shape of another number of dimensions.
        """
        record = NETS.get(name)
        if record is None:
            raise unknown_name(self.prefix, name, self.names())
        spec = f"{self.prefix}:{name}"

        def build() -> torch.nn.Module:
            return record.make()

        return Backend(
            name=spec,
            build=build,
            inputs=Drawn(reshaped(spec, record.draws, input_shape)),
            source=f"{record.make.__module__}:{record.make.__name__}",
            task=record.task,
            size="tiny",
            tags=tagged(("handmade",), record.tags),
        )


collection = HandmadeCollection()
