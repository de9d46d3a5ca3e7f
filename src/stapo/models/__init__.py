"""Models by name: a small catalog, wheels brought by the user's own pip, and the folder where they are kept."""
