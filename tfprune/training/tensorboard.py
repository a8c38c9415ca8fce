"""Scalars and histograms for TensorBoard, written without TensorBoard being installed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune.files import check_writable_folder

_NUM_BINS = 30


class SummaryWriter:
    """Writes event files that TensorBoard reads.

    Args:
        folder: where the files go; it is made where it does not exist.

    Raises:
        ValueError: if the folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike):
        self._writer = tf.summary.create_file_writer(os.fspath(check_writable_folder(folder)))

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Writes one number."""
        self._write(tag, tf.constant(value, "float32"), step, "scalars", 1)

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        """Writes how some values are spread."""
        counts, edges = np.histogram(np.asarray(values, "float64"), bins=_NUM_BINS)
        rows = np.stack([edges[:-1], edges[1:], counts], axis=1)
        self._write(tag, tf.constant(rows), step, "histograms", 2)

    def flush(self) -> None:
        """Makes sure that all lies in the file."""
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _write(self, tag: str, tensor: Any, step: int, plugin: str, data_class: int) -> None:
        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin), data_class=data_class
        )
        with self._writer.as_default():
            tf.summary.write(tag, tensor, step=step, metadata=metadata)
