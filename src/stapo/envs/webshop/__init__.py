"""WebShop: shopping by instruction, in text."""
