"""Shops of our own design: products, attributes, instructions, in WebShop's file formats.

Read in this order: `sizes` (what is sold, how much and how well hidden), `families` (products and their distractors),
`catalog` (the words, and whole shops).
"""

from stapo.envs.webshop.generator.catalog import Article, generate_catalog, iter_products
from stapo.envs.webshop.generator.sizes import SIZES

__all__ = ["SIZES", "Article", "generate_catalog", "iter_products"]
