"""Print the list of operators for ``docs/onnx-operators.md``."""

from __future__ import annotations

import sys

from fmx_adapters.onnx.importer.operators import document

sys.stdout.write(document())
