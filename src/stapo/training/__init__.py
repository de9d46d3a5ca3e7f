"""Training: SFT, then RL; from a configuration to a finished run directory."""
