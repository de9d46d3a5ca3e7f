"""The run directory: what a run leaves behind, and how it is read back."""

from stapo.run.directory import FORMAT_VERSION, RunDirectory, require_free
from stapo.run.saves import check_sealed

__all__ = ["FORMAT_VERSION", "RunDirectory", "check_sealed", "require_free"]
