"""What every HTTP server of ours is made of: its gate, its deadlines, how it listens and how it stops."""
