"""Array functions: one a file. `base.py` says how to add one."""
