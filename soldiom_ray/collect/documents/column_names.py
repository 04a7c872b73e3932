"""The names that columns usually have for each role, and the roles that make a record's text."""

CONVERSATION_NAMES = (
    *("messages", "conversations", "conversation", "dialog", "dialogue", "dialogs", "dialogues", "turns", "chat"),
    *("thread", "items", "utterances", "interactions", "rounds", "chat_history", "message_list"),
    *("chat_messages", "contents"),
)
NAMES: dict[str, tuple[str, ...]] = {
    "messages": (*CONVERSATION_NAMES, "data", "sample", "example", "payload"),
    "system": ("system", "system_prompt", "system_message", "systeminstruction", "system_instruction"),
    "tools": ("tools", "functions", "available_tools"),
    "history": ("history",),
    "instruction": ("instruction", "prompt"),
    "input": ("input", "inputs", "inputs_pretokenized", "input_text"),
    "output": ("output", "response", "completion", "output_text"),
    "question": (
        "question",
        "query",
        "problem",
        "ctx",
        "question_stem",
        "stem",
        "goal",
        "faq",
        "user_input",
        "questions",
    ),
    "context": (
        "context",
        "contexts",
        "passage",
        "paragraph",
        "background",
        "support",
        "story",
        "premise",
        "article",
        "document",
    ),
    "choices": ("choices", "options", "endings"),
    "choice_columns": (),
    "answer": (
        "answer",
        "answers",
        "long_answer",
        "solution",
        "canonical_solution",
        "best_answer",
        "reply",
        "bot_response",
        "generated_solution",
        "generated_answer",
        "sql",
        "sql_query",
    ),
    "code": ("code",),
    "answer_key": ("answer_key", "answerkey", "correct_answer", "answer_idx", "answer_index", "correct_option", "cop"),
    "chosen": (
        *("chosen", "preferred_output", "preferred", "accepted_response", "chosen_response", "response_chosen"),
        *("chosen_answer", "response_j", "response_w", "accepted"),
    ),
    "rejected": (
        *("rejected", "non_preferred_output", "dispreferred", "rejected_response", "response_rejected"),
        *("rejected_answer", "response_k", "response_l"),
    ),
    "steps": ("completions",),
    "step_labels": ("labels",),
    "source": (
        "source",
        "src",
        "source_text",
        "original_text",
        "original",
        "article",
        "document",
        "passage",
        "dialogue",
    ),
    "target": (
        "target",
        "targets",
        "targets_pretokenized",
        "tgt",
        "target_text",
        "reference_summary",
        "summary",
        "highlights",
        "simplified_text",
        "note",
    ),
    "prefix": ("prefix", "fim_prefix", "prompt"),
    "middle": ("middle", "fim_middle"),
    "suffix": ("suffix", "fim_suffix"),
    "premise": ("premise", "sentence1", "question1", "text1"),
    "hypothesis": ("hypothesis", "sentence2", "question2", "text2"),
    "reasoning": ("reasoning", "reasoning_content", "thinking", "chain_of_thought", "rationale", "cot"),
    "text": (
        "text",
        "content",
        "body",
        "document",
        "passage",
        "article",
        "sentence",
        "tweet",
        "review",
        "comment",
        "comment_text",
    ),
    "correction": ("correction", "corrected", "corrected_answer"),
    "rating": (
        *("rating", "ratings", "stars", "thumbs_up", "thumbs", "thumb", "vote", "is_good", "desirable", "score"),
        *("kto_tag", "feedback", "is_correct", "accepted", "liked", "helpful", "helpfulness"),
        *("overall_score", "is_safe", "is_response_safe", "quality"),
    ),
    "bad_mark": (
        *("toxic", "is_toxic", "deleted", "is_deleted", "spam", "is_spam", "flagged", "harmful", "is_harmful"),
        *("unsafe", "is_unsafe"),
    ),
    "time": ("time", "timestamp", "created_at", "datetime", "date"),
    "group": (
        "group",
        "group_id",
        "conversation_id",
        "message_tree_id",
        "thread_id",
        "session_id",
        "doc_title",
        "document_id",
        "doc",
    ),
    "license": ("license", "licence"),
    "label": ("label", "labels", "class", "category", "sentiment", "intent", "emotion"),
    "image": ("file_name", "filename", "image_file", "image_path", "image"),
    "split": (),
    "checks": ("test_list", "tests", "test", "test_code", "unit_tests", "unit_test", "asserts"),
    "check_setup": ("test_setup_code", "test_imports", "setup_code"),
    "entry_point": ("entry_point", "function_name", "func_name"),
}
"""A role and the names, best first, that a column for it usually has. A data set's own
split is never guessed: its author and purpose are unknown."""

FORMS = (
    "messages chosen rejected",
    "instruction input? context? chosen rejected",
    "question context? chosen rejected",
    "input chosen rejected",
    "chosen rejected",
    "messages",
    *(
        f"question context? {choices} {answer}"
        for choices in ("choices", "choice_columns")
        for answer in ("answer", "answer_key", "label")
    ),
    *(
        f"instruction {choices} {answer}"
        for choices in ("choices", "choice_columns")
        for answer in ("answer", "answer_key")
    ),
    "instruction steps step_labels",
    *(f"instruction input? context? {answer}" for answer in ("output", "answer", "target")),
    "instruction chosen",
    *(f"question context? {answer}" for answer in ("answer", "output", "target")),
    *(f"input {answer}" for answer in ("output", "answer", "target")),
    *(
        f"text {choices} {answer}"
        for choices in ("choices", "choice_columns")
        for answer in ("answer", "answer_key", "label")
    ),
    "premise hypothesis",
    *(f"{asked} code" for asked in ("instruction", "question", "text")),
    "prefix middle suffix?",
    *(f"source {answer}" for answer in ("target", "output")),
    "text",
    "question context? answer_key",
    "context output",
    "chosen",
    "image label",
    "instruction input? rejected",
    "question context? rejected",
)
"""The roles of each form of record, "?" where it may lack one. A record has the first form whose roles it has."""

CONVERSATION_ROLES = ("system", "tools", "history", "reasoning")
"""Roles that may accompany a form with an answer: they become part of its conversation."""

ANSWERING = ("answer", "output", "chosen", "target", "answer_key", "steps", "step_labels", "code")
CHECK_ROLES = ("checks", "check_setup", "entry_point")
METADATA_ROLES = (
    *("label", "rejected", "correction", "rating", "time", "group", "license", "image", "split"),
    *CHECK_ROLES,
)
"""Roles that may accompany any form: they become metadata, not text."""

RECORD_ROLES = ("time", "group", "license", "image", "split")
"""Roles that describe the record itself: its time, group, license, picture, and its split in the original data set."""

MARKED = {"output", "steps", "messages"}
"""Roles whose label may say whether they are good."""

CHOICE_PREFIXES = ("", "op", "option", "option_", "choice", "choice_", "ans_", "answer", "answer_", "sol", "ending")
"""What the columns of choices begin with where each choice has its own, before a letter or a number."""

LANGUAGES = (
    *("en", "fr", "de", "es", "it", "pt", "nl", "pl", "ru", "uk", "cs", "sv", "da", "no", "fi", "el", "tr", "ar", "he"),
    *("fa", "hi", "bn", "ur", "ta", "te", "th", "vi", "id", "ms", "zh", "ja", "ko", "ro", "hu", "bg", "hr", "sr", "sk"),
    *("english", "french", "german", "spanish", "italian", "portuguese", "dutch", "arabic", "darija", "chinese"),
    *("russian", "hindi", "japanese", "korean", "turkish", "polish", "swedish", "eng", "fra", "deu", "spa", "arb"),
)
"""Names of columns that hold a text in that language."""

SUMMARIES = ("summary", "highlights", "reference_summary", "simplified_text", "tldr")
"""Names of a target whose source may be called `text`."""

SPEAKER_COLUMNS = (
    ("user", "human", "patient", "customer", "q"),
    ("assistant", "gpt", "bot", "ai", "doctor", "agent", "a"),
)
"""Columns named after those who speak in them; they count where both are there."""
