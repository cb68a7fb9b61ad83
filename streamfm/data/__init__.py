"""Rows from anywhere: read by DuckDB, checked, counted into vocabularies, encoded on the disk."""

from streamfm.data.encoding import encode_dataset, fit_vocabularies

__all__ = ["encode_dataset", "fit_vocabularies"]
