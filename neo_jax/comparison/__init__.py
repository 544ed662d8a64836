"""Several runs side by side on one page: python -m neo_jax.report."""
