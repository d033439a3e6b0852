"""Transfer: bases to begin with, and what is done with them before and between experiences."""

from everlearn.transfer.bases import Base, open_base
from everlearn.transfer.preprocessing import ImagePreprocessing, TextPreprocessing

__all__ = ["Base", "ImagePreprocessing", "TextPreprocessing", "open_base"]
