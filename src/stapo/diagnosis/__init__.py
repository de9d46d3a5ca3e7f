"""What a trained policy's steps look like from inside and outside: entropy, use of the trajectory, and what was bad.

The paper's section 3 and appendices on one's own run. `diagnose` plays a checkpoint by a fixed protocol, measures every
step with the model (entropies, divergences, attribution scores), has the environment say which steps were bad, and asks
how the two go together.
"""

from stapo.diagnosis.protocol import DiagnosisSpec, make_spec
from stapo.diagnosis.run import DiagnosisTarget, diagnose, require_checkpoint, require_same_world, require_writable

__all__ = [
    "DiagnosisSpec",
    "DiagnosisTarget",
    "diagnose",
    "make_spec",
    "require_checkpoint",
    "require_same_world",
    "require_writable",
]
