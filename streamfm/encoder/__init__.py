"""The encoder: Arrow columns to ids and weights, by a written rule and compiled kernels."""

from streamfm.encoder.encode import Encoded, Encoder, Field, Layout

__all__ = ["Encoded", "Encoder", "Field", "Layout"]
