"""Several trainings with different settings, of which the best becomes the run."""
