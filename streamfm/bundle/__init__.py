"""The bundle: a model on the disk, written at once, never changed, checked whenever it is opened.

    manifest.json        what it is, and the size and sha256 of every other file
    features.toml        the specification
    vocabulary/          hash tables (.npy, memory-mapped) and values (Arrow)
    model.onnx           inputs ids int32 [B, S], weights float32 [B, S] (absent when every slot has weight 1);
                         outputs logit, score float32 [B]; model.int8.onnx is the same, quantised
    weights.safetensors  what fine-tuning and explanations need

No pickle anywhere, and serving opens it without torch and onnx.
"""

from streamfm.bundle.manifest import FORMAT_VERSION, FileEntry, LayoutFacts, Manifest
from streamfm.bundle.reader import Bundle, check_files, open_bundle, read_manifest
from streamfm.bundle.writer import BundleWriter, annotate, stamp

__all__ = [
    "FORMAT_VERSION",
    "Bundle",
    "BundleWriter",
    "FileEntry",
    "LayoutFacts",
    "Manifest",
    "annotate",
    "check_files",
    "open_bundle",
    "read_manifest",
    "stamp",
]
