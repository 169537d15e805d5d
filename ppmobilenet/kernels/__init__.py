"""Training on the CPU at the speed of its memory: the networks' convolutions, batch norms and activations, fused.

Stands between models and training: it knows layers by their structure and imports no model. :func:`accelerate` is
the one entry; everything it needs is compiled on first use and kept in the cache folder.
"""

from ppmobilenet.kernels.accelerate import MODES, Report, accelerate, run_units

__all__ = ["MODES", "Report", "accelerate", "run_units"]
