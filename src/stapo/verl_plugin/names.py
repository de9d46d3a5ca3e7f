"""Names under which the parts of the plugin find each other inside verl's configuration."""

TRAIN = "stapo-train"
"""What stands for a training file."""

EVALUATION = "stapo-eval"
"""What stands for a validation file."""

AGENT = "stapo"
"""Name of the agent loop."""
