"""One module per way of connecting: configuration and secrets in, verdict out."""

from chalicelib.probes.check import Prober, run_check

__all__ = ["Prober", "run_check"]
