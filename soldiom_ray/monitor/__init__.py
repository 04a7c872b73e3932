"""monitor: what is served is watched, and goes back by itself when it is worse than what was served before."""
