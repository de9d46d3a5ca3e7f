"""Training: supervised warm start, then RL; from a configuration to a finished run directory."""
