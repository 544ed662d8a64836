"""A first configuration for rows that somebody brings: what neo_jax.init writes."""
