"""Streams without borders: rows are predicted, then learned; labels come late; the world changes and grows."""
