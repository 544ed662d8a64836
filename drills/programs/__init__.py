"""Programs that a drill runs instead of neo_jax.train: the same training with one thing spoiled or watched."""
