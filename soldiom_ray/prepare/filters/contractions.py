"""English words that are split, or kept whole, against the rules of punctuation.

The list follows spaCy 3.8, lang/en/tokenizer_exceptions.py and lang/tokenizer_exceptions.py (MIT), without
emoticons that hold letters.
"""

from collections.abc import Iterable, Iterator

LOOKS_CONTRACTED = "Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore"
PRONOUNS = "i you he she it we they"
ASKING = "who what when where why how there that this these those"
NEGATED = "ca could do does did had may might must need ought sha should wo would ai are is was were have has dare"
NEGATED_HAVE = "ca could do does did had may might must need ought sha should wo would"
ABBREVIATIONS = r"""
a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs. Mo. Mont.
Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec.
Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H.
N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. and/or w/o ma'am Ma'am
o'clock O'clock 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout 'em 'll 'nuff 're 'd 's 'S doin' goin' nothin'
nuthin' ol' somethin' lovin' havin' Doin' Goin' Nothin' Nuthin' Ol' Somethin' Lovin' Havin' C++ '' \t \n \")
<space> ä. ö. ü.
"""
SPLIT = (
    "y' all|y all|how 'd 'y|How 'd 'y|can not|Can not|gon na|Gon na|got ta|Got ta|let 's|Let 's|c'm on|C'm on"
    "|not 've|not ve|Not 've|Not ve"
)

FACES = """
:) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :} :-} ;) ;-) (; (-; :( :-( :(( :-(( :((( :-((( ): )-:
=( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :() :* :-* :> :-> ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- ''
<3 </3 8) (-8 :1 :3 =3 :0
"""
EMOTICONS = frozenset(FACES.split())
"""Tokens that are joined again when they make one of these; the digits are spaCy's."""


def _endings() -> Iterator[tuple[str, Iterable[str]]]:
    """A word and how it goes on: pieces joined by a blank, each with its apostrophe."""
    for word in PRONOUNS.split():
        yield word, ("'ll", "'ll 've", "'d", "'d 've")
    yield "i", ("'m", "'m a")
    for word in ("i", "you", "we", "they"):
        yield word, ("'ve",)
    for word in ("you", "we", "they"):
        yield word, ("'re",)
    for word in ("he", "she", "it"):
        yield word, ("'s",)
    for word in ASKING.split():
        yield word, ("'ll", "'ll 've", "'d", "'d 've")
        yield word, ("'s",) if word not in ("these", "those") else ()
        yield word, ("'re", "'ve") if word not in ("there", "that", "this") else ()
    for word in NEGATED.split():
        yield word, ("n't",)
    for word in NEGATED_HAVE.split():
        yield word, ("n't 've",)
    for word in ("could", "might", "must", "should", "would"):
        yield word, ("'ve",)


def _special() -> dict[str, list[str]]:
    """Each exception and its tokens. A contraction is one without its apostrophes as well ("dont": do, nt)."""
    special = {word: [word] for word in ABBREVIATIONS.split()}
    special |= {f"{letter}.": [f"{letter}."] for letter in "abcdefghijklmnopqrstuvwxyz"}
    for first, endings in _endings():
        for word in (first, first.title()):
            for ending in endings:
                for pieces in ([word, *ending.split()], [word, *ending.replace("'", "").split()]):
                    special["".join(pieces)] = pieces
    special |= {text.replace(" ", ""): text.split() for text in SPLIT.split("|")}
    special |= {f"{hour}{half}": [str(hour), half] for hour in range(1, 13) for half in ("am", "pm", "a.m.", "p.m.")}
    return {word: pieces for word, pieces in special.items() if word not in LOOKS_CONTRACTED.split()}


SPECIAL = _special()
