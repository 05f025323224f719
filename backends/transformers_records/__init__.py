"""The architectures of the transformers collection: one record each, as data.

Sizes are small and all different (hidden, heads, head width, feed-forward width, vocabulary,
length), so that no size can be taken for another. Nothing here imports transformers.
"""

from __future__ import annotations

from backends.transformers_records import decoders, encoders, full, multimodal, series, vision
from backends.transformers_records.record import Record

ALL: dict[str, Record] = {
    record.name: record
    for module in (encoders, decoders, vision, multimodal, series, full)
    for record in module.RECORDS
}
