"""Where rows come from: memory, disk, folders, tables, archives, hubs; and how a batch of them is seen."""

from everlearn.data.items import Items
from everlearn.data.order import batches, epoch_order
from everlearn.data.rows import Columns, Concat, Relabelled, Subset, With, as_rows
from everlearn.data.source import Source
from everlearn.data.sources import is_images, load, load_unlabelled
from everlearn.data.transforms import Colour, Crop, Flip, Normalize, Rotate, View, view

__all__ = [
    "Colour",
    "Columns",
    "Concat",
    "Crop",
    "Flip",
    "Items",
    "Normalize",
    "Relabelled",
    "Rotate",
    "Source",
    "Subset",
    "View",
    "With",
    "as_rows",
    "batches",
    "epoch_order",
    "is_images",
    "load",
    "load_unlabelled",
    "view",
]
