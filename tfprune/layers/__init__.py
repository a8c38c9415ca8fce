"""Layers: units switched off by `on_nodes`, stand-ins for layers that look across units; ON-LSTM; crossed layers."""

from tfprune.layers.attention import MaskedMultiHeadAttention, attended_heads
from tfprune.layers.crossing import CROSSINGS, CrossedConv, CrossedDense
from tfprune.layers.fixed import DirectionReplacement, FixedOnNodes, StepPositions
from tfprune.layers.masks import MeanReplacement, TakeUnits
from tfprune.layers.on_lstm import ONLSTM, MasterGates
from tfprune.layers.on_lstm_cell import ONLSTMCell
from tfprune.layers.recurrent import RECURRENT, MaskedBidirectional, MaskedRNN, entering_states, is_plain_recurrent
from tfprune.layers.reductions import (
    MaskedExtreme,
    MaskedLogsumexp,
    MaskedMean,
    MaskedMoments,
    MaskedNorm,
    MaskedSoftmax,
    MaskedTopK,
    MaskedTopShares,
    MaskedVariance,
)
from tfprune.layers.twins import CountsUnits, MaskedLayerNormalization, Twin

__all__ = [
    "CROSSINGS",
    "CountsUnits",
    "CrossedConv",
    "CrossedDense",
    "DirectionReplacement",
    "FixedOnNodes",
    "ONLSTM",
    "ONLSTMCell",
    "RECURRENT",
    "MaskedBidirectional",
    "MaskedLayerNormalization",
    "MaskedMultiHeadAttention",
    "MaskedRNN",
    "MaskedExtreme",
    "MaskedLogsumexp",
    "MaskedMean",
    "MaskedMoments",
    "MaskedNorm",
    "MaskedSoftmax",
    "MaskedTopK",
    "MaskedTopShares",
    "MaskedVariance",
    "MasterGates",
    "MeanReplacement",
    "StepPositions",
    "TakeUnits",
    "Twin",
    "attended_heads",
    "entering_states",
    "is_plain_recurrent",
]
