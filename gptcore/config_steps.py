"""The schema of `corpus.steps`: what is done to the text, in order, between reading and splitting into files."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from gptcore.config_part import Part, Positive, Strings, as_tuple

FILTER_RULES: dict[str, tuple[str, ...]] = {
    "web": (
        "javascript_lines",
        "policy_lines",
        "lorem_ipsum",
        "curly_bracket",
        "words",
        "mean_word_length",
        "symbols",
        "duplicate_lines",
        "duplicate_line_characters",
        "duplicate_paragraphs",
        "bullet_lines",
        "ellipsis_lines",
        "ending_lines",
        "short_lines",
        "stop_words",
        "sentences",
        "words_with_letter",
        "top_phrase",
        "duplicate_phrases",
    ),
    "docs": (
        "copyright_lines",
        "lorem_ipsum",
        "placeholder",
        "licence",
        "words",
        "mean_word_length",
        "duplicate_lines",
        "letters",
        "encoded",
        "top_phrase",
        "duplicate_phrases",
    ),
    "code": (
        "lock_file",
        "generated",
        "lines",
        "mean_line_length",
        "longest_line",
        "duplicate_code",
        "letters",
        "encoded",
        "literal_lines",
    ),
    "zh": (
        "boilerplate_lines",
        "chinese_characters",
        "chinese_share",
        "kana_share",
        "latin_share",
        "digit_share",
        "punctuation_share",
        "stop_characters",
        "mean_line_length",
        "duplicate_lines",
        "duplicate_line_characters",
        "top_phrase",
        "duplicate_phrases",
    ),
}
"""The rules of each profile of the filter step, in the order they are tried. What they do and their limits:
gptcore/text/steps/profiles.py, which is not imported here so that a config loads fast."""
_CODES = """
ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr fuv fy ga
gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko ku ky la lb lg lij
ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru rw sa sdh se si sk sl sn so
sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu zxx
"""
LANGUAGES = frozenset(_CODES.split())
"""Codes of py3langid 0.4; zxx is text without language. A table, so that a preset is checked without the model."""
MEANT = {
    "cn": "zh", "chinese": "zh", "zho": "zh", "cmn": "zh", "jp": "ja", "japanese": "ja", "kr": "ko", "korean": "ko",
    "english": "en", "eng": "en", "gb": "en", "us": "en", "german": "de", "deu": "de", "spanish": "es", "spa": "es",
    "french": "fr", "fra": "fr", "arabic": "ar", "ara": "ar", "hindi": "hi", "hin": "hi", "cz": "cs", "gr": "el",
    "ua": "uk", "dk": "da", "nb": "no",
}  # fmt: skip
"""What is written in place of a code: countries, names, codes of three letters."""
MASKED = ("email", "phone", "ip", "key")
"""What the step `mask` finds."""


class Repair(Part):
    """Mends text that was decoded wrongly (mojibake) with ftfy, and brings its characters into one form."""

    kind: Literal["repair"]
    """Which step this is."""
    form: Literal["NFC", "NFKC"] = "NFC"
    """Unicode normalisation form. NFKC also folds full-width letters, ligatures and superscripts into plain ones."""
    entities: bool = False
    """Whether HTML entities such as `&amp;` become the characters they stand for, in texts without `<`. Off, because
    text about HTML quotes them on purpose."""


class Language(Part):
    """Keeps documents of some languages, told offline by py3langid."""

    kind: Literal["language"]
    """Which step this is."""
    keep: Annotated[Strings, Field(min_length=1)]
    """Languages to keep, ISO 639 codes such as `en` or `zh`, of those that py3langid knows. Close relatives share the
    probability of a text: give them together where they are welcome, `[zh, yue, wuu]` for Chinese, `[hr, bs, sr]`."""
    least_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.65
    """A document is dropped where its most probable language is not kept, or the kept ones together have less than
    this; 0.65 is FineWeb's (Penedo et al. 2024, section 3.1). Short texts are less certain."""

    @field_validator("keep")
    @classmethod
    def _known(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        for code in keep:
            if code not in LANGUAGES:
                plain = code.lower().replace("_", "-").split("-")[0]
                meant = MEANT.get(plain, plain)
                near = [meant] if meant in LANGUAGES else get_close_matches(plain, sorted(LANGUAGES), n=3, cutoff=0.5)
                raise ValueError(
                    f"{code!r} is no language code that py3langid knows; "
                    + (f"near it: {', '.join(near)}" if near else f"there are {', '.join(sorted(LANGUAGES))}")
                )
        return keep


class Filter(Part):
    """Drops documents that break a rule of a profile, and says which rule dropped how many."""

    kind: Literal["filter"]
    """Which step this is."""
    profile: Literal["web", "docs", "code", "zh"]
    """Rules for one kind of text. web: those of Gopher, C4 and FineWeb; docs: of technical prose; code: of source code;
    zh: of Chinese text (not of Japanese)."""
    without: Strings = ()
    """Rules of the profile that are left out, by name."""

    @model_validator(mode="after")
    def _known(self) -> Filter:
        there = FILTER_RULES[self.profile]
        if unknown := [name for name in self.without if name not in there]:
            raise ValueError(
                f"without names {', '.join(map(repr, unknown))}, no rule of the profile {self.profile}; "
                f"its rules are {', '.join(there)}"
            )
        return self


class Mask(Part):
    """Puts a placeholder in place of personal data and secrets: `<EMAIL>`, `<PHONE>`, `<IP>`, `<KEY>`."""

    kind: Literal["mask"]
    """Which step this is."""
    what: Annotated[Strings, Field(min_length=1)] = MASKED
    """Any of email, phone, ip (addresses of the public internet) and key (credentials of well-known forms, and private
    key blocks)."""

    @field_validator("what")
    @classmethod
    def _known(cls, what: tuple[str, ...]) -> tuple[str, ...]:
        for name in what:
            if name not in MASKED:
                raise ValueError(f"{name!r} cannot be masked; there are {', '.join(MASKED)}")
        return what


class NearDuplicates(Part):
    """Of documents that share most of their text one stays, found by MinHash (Broder 1997)."""

    kind: Literal["near_duplicates"]
    """Which step this is."""
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    """Share of common shingles (Jaccard similarity) from which two documents count as one."""
    permutations: Annotated[int, Field(ge=16, le=1024)] = 128
    """Hashes of a signature: more tell similarities apart better, and cost in proportion."""
    shingle: Positive = 5
    """Words in a shingle; in scripts without spaces, characters."""


class Decontaminate(Part):
    """Drops training documents that share a run of words with what the models are measured on (Brown et al. 2020,
    appendix C)."""

    kind: Literal["decontaminate"]
    """Which step this is."""
    words: Annotated[int, Field(ge=5, le=50)] = 13
    """Words in a run; in scripts without spaces, characters count as words."""
    against: Strings = ()
    """Files of benchmark texts besides the corpus's own test split and the standard tasks of `benchmark.tasks`: of any
    format that `files` reads; every text counts as an item."""
    most_documents: Positive | None = 10
    """Runs that stand in more training documents than this are stock phrases and licences, and no reason to drop one;
    10 is the paper's. None takes every run as a reason."""


Step = Annotated[
    Repair | Language | Filter | Mask | NearDuplicates | Decontaminate,
    Field(discriminator="kind"),
]
Steps = Annotated[tuple[Step, ...], BeforeValidator(as_tuple)]
WHOLE_CORPUS = ("near_duplicates", "decontaminate")
"""Kinds of steps that compare documents: they come last, in this order. The others look at one document alone."""
