"""Presets of whole runs, shipped as YAML; the library never imports them."""
