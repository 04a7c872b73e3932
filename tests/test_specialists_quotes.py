"""Quotes of a study that bear on a question."""

from cpu_time import assert_in_proportion

from soldiom_ray.specialists.quotes import quote_study

ABSTRACT = (
    "Mammography finds cancer early. One thousand women were randomized to usual care or telephone counseling. "
    "The mean age was 57 years. Adherence to mammography was 71% with telephone counseling and 61% with usual care."
)


def test_the_sentences_that_bear_on_a_question_are_quoted_word_for_word_in_their_order() -> None:
    answer = quote_study({"question": "Does telephone counseling increase mammography use?", "abstract": ABSTRACT})
    assert answer["found"] and "Adherence to mammography was 71%" in answer["answer"] and "57" not in answer["answer"]
    assert [quote["text"] for quote in answer["quotes"]] == [
        ABSTRACT[quote["start"] : quote["end"]] for quote in answer["quotes"]
    ]
    starts = [quote["start"] for quote in answer["quotes"]]
    assert starts == sorted(starts) and 1 <= len(starts) <= 2


def test_a_question_of_which_a_study_says_nothing_is_not_found() -> None:
    answer = quote_study({"question": "Which insulin lowers glucose?", "abstract": ABSTRACT})
    assert answer == {"found": False, "answer": "not found", "quotes": []}
    assert not quote_study({"question": "?", "abstract": ABSTRACT})["found"]
    assert not quote_study({"question": "Why?", "abstract": " "})["found"]


def test_a_long_text_takes_time_in_proportion() -> None:
    assert_in_proportion(
        lambda size: quote_study({"question": "telephone counseling", "abstract": ABSTRACT * size}), 200
    )
