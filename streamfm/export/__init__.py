"""Export: a trained model becomes a bundle, after the proof that it answers as torch does."""

from streamfm.export.exporting import ExportSettings, Provenance, Sample, Trained, export_bundle

__all__ = ["ExportSettings", "Provenance", "Sample", "Trained", "export_bundle"]
