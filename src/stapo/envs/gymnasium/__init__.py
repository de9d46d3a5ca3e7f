"""Environments of Gymnasium whose observations are texts, or can be shown as such."""
