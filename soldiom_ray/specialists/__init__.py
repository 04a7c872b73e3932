"""What rules do better than a model, for the specialists of a domain: each a pure function from a JSON object to a JSON
object, named in `rules.py`. They read no file, call no model and no network, need time and memory in proportion to
their input, and leave out what they do not find rather than guess it."""
