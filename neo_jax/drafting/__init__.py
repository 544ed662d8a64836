"""Drafts a first configuration for a user's own rows, for neo_jax.init."""
