"""One thread for each test process: several run side by side, and bits depend on the number of threads."""

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the programs that tests start

import torch

from everlearn.models.vision_ops import mended

torch.set_num_threads(1)
mended()  # transformers imports torchvision, and cannot where its operators are missing


gc.disable()  # libraries and thousands of tests come to life, and nothing of them dies


def pytest_collection_finish() -> None:
    """From here on garbage is looked for among what the tests make, and not among all that is there to stay."""
    gc.enable()
    gc.collect()
    gc.freeze()
