"""What a run takes, before it is started: memory and time from shapes. The formulas are in docs/scaling.md."""
