"""Image data: sources, their partition among clients, and the transform to a model's input."""

from .image_set import DataError, ImageSet, Part, Source
from .partitions import PARTITIONS, partition, partition_test
from .sampling import SAMPLINGS, epoch_order
from .sources import SourceLoader, load_source, register_source, source_names
from .split import split_client
from .stored_views import StoredViews, Transform, read_pixels
from .transforms import AUGMENTATIONS, BatchTransform
from .views import ViewTransform

__all__ = [
    "AUGMENTATIONS",
    "PARTITIONS",
    "SAMPLINGS",
    "BatchTransform",
    "DataError",
    "ImageSet",
    "Part",
    "Source",
    "SourceLoader",
    "StoredViews",
    "Transform",
    "ViewTransform",
    "epoch_order",
    "load_source",
    "partition",
    "partition_test",
    "read_pixels",
    "register_source",
    "source_names",
    "split_client",
]
