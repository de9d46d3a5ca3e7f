"""ALFWorld without TextWorld: the exact text semantics, native, with its own scene generator."""
