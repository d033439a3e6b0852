"""One thread for each test process: several run side by side, and bits depend on the number of threads."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the programs that tests start

import torch

from everlearn.models.vision_ops import mended

torch.set_num_threads(1)
mended()  # transformers imports torchvision, and cannot where its operators are missing
