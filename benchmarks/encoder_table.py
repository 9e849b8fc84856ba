"""The same head, budget and scene on different dense features: what each is worth to ACE.

    python benchmarks/encoder_table.py SCENE --features ours rootsift --weights FOLDER

A row of JSON a feature on standard output. FOLDER holds squeezenet1_0.safetensors, alike-t.pth and
r2d2_WASF_N16.pt, for those features. All are fed the same grey images, sampled at the same cells of
8x8 pixels, and brought to mean 0 and variance 1 over the mapping images before the head sees them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import cv2
import numpy as np
import safetensors.torch
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional

from reloc import load_scene
from reloc.contract import Run
from reloc.evaluation.errors import pose_errors  # the errors are computed in one place
from reloc.methods.coordinates import ace
from reloc.nn.encoder import SIZES, STRIDE, Encoder, cell_centers
from reloc.nn.weights import encoder_path, load_encoder
