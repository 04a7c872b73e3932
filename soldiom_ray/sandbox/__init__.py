"""Programs that nobody has read, such as those a model wrote, run where they can do no harm: `run.py` starts them."""
