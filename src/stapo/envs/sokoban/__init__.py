"""Sokoban in text: boxes are pushed onto targets, in generated rooms."""
