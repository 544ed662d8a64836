"""Configurations: each file has get_config(arg) and says in its docstring which command runs it."""
