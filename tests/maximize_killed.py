"""Maximizes channels into a folder, and is killed after some batches; run by test_maximize_results."""

from __future__ import annotations

import os
import signal
import sys

import torch
from networks import tiny_resnet

import fmx
from fmx.maximize import api

torch.set_num_threads(1)
api._SAVE_SECONDS = 0.0


def progress(done: int, _total: int) -> None:
    if done >= 3 * 5:
        os.kill(os.getpid(), signal.SIGKILL)


model = fmx.load(tiny_resnet().eval(), input_shape=(3, 32, 32))
fmx.maximize.maximize(model, "layer1", steps=5, size=16, batch_size=1, to=sys.argv[1], progress=progress)
