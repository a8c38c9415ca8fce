"""Models leave Keras: SavedModel, TFLite, checked by loading back; and the report of what a cut has changed."""

from tfprune.export.formats import saved_model, tflite
from tfprune.export.report import Comparison, Row, compare

__all__ = ["Comparison", "Row", "compare", "saved_model", "tflite"]
