"""One thread for each test process: several run side by side, and bits depend on the number of threads."""

import os
from contextlib import suppress

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the programs that tests start

import torch

from everlearn.transfer.vision_ops import torchvision

torch.set_num_threads(1)
with suppress(ImportError):
    torchvision()  # transformers imports it, and cannot where its operators are missing
