"""The tasks that models are trained for, by name. It imports nothing, so that the command line can begin at once."""

CAUSAL_LM, TEXT_CLASSIFICATION, IMAGE_CLASSIFICATION = "causal_lm", "text_classification", "image_classification"
CHAT_TASKS = (CAUSAL_LM, "preference")
"""Tasks whose models continue texts and conversations, token by token."""
SEQ2SEQ = "seq2seq_lm"
"""The task of models that write a target text for a source text."""
CLASSIFICATIONS = (TEXT_CLASSIFICATION, IMAGE_CLASSIFICATION)
SERVED_TASKS = (*CHAT_TASKS, SEQ2SEQ, *CLASSIFICATIONS)
