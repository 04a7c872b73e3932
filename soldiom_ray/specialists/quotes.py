"""The sentences of a text that bear on a question, word for word: what nobody has to doubt as made up."""

import math
from collections import Counter
from typing import Any

from soldiom_ray.specialists.evidence import text_of
from soldiom_ray.specialists.wording import content_words, sentence_spans

MOST_QUOTES = 2
"""Two answer questions of PubMedQA as well as one (ROUGE-L 0.212 and 0.213 on 407 studies of the training side) and
leave less out."""
SECOND_SHARE = 0.5
"""The second bears at least so much on the question as the best."""
SHORT_WORDS = 3


def quote_study(document: dict[str, Any]) -> dict[str, Any]:
    """`{"question": str, "abstract": str}` -> `{"found", "answer", "quotes": [{"text", "start", "end", "score",
    "words"}]}`: the sentences that share most with the question, in the order of the text; `words` are what they share.

    A word counts the more, the fewer sentences have it. Not found is a question whose words no sentence has."""
    abstract, question = text_of(document, "abstract"), set(content_words(text_of(document, "question")))
    spans = list(sentence_spans(abstract))
    words = [set(content_words(abstract[start:end])) for start, end in spans]
    counts = Counter(word for each in words for word in each)
    weights = {word: math.log(1 + len(spans) / counts[word]) for word in question & counts.keys()}
    scores = [
        sum(weights[word] for word in each & weights.keys()) / math.sqrt(len(each) + SHORT_WORDS) for each in words
    ]
    best = sorted(range(len(spans)), key=lambda place: (-scores[place], place))[:MOST_QUOTES]
    chosen = sorted(place for place in best if scores[place] > 0 and scores[place] >= SECOND_SHARE * scores[best[0]])
    quotes = [
        {
            "text": abstract[slice(*spans[place])],
            "start": spans[place][0],
            "end": spans[place][1],
            "score": round(scores[place], 4),
            "words": sorted(words[place] & weights.keys()),
        }
        for place in chosen
    ]
    answer = " ".join(str(quote["text"]) for quote in quotes) or "not found"
    return {"found": bool(quotes), "answer": answer, "quotes": quotes}
