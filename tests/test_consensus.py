import random

import pytest

from gptcore.evaluation.consensus import common_length, likeness, most_alike
from gptcore.evaluation.scores import rouge
from gptcore.text.words import letter_words


def by_table(first, second):
    """The textbook's way."""
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if a == b else max(lengths[i][j + 1], lengths[i + 1][j])
    return lengths[-1][-1]


def test_the_longest_common_subsequence_is_that_of_the_textbook():
    draw = random.Random(1)
    for _ in range(300):
        first, second = (draw.choices("abcdefg"[: draw.randint(1, 7)], k=draw.randint(0, 90)) for _ in range(2))
        assert common_length(first, second) == by_table(first, second)


def test_likeness_is_rouge_l():
    texts = ["Return the axes of the plot.", "the axes, returned", "", "Plot axes_of graph", "返回轴的名称", "返回名称"]
    for first in texts:
        for second in texts:
            ours = likeness(letter_words(first), letter_words(second))
            assert ours == pytest.approx(rouge(first, second)["rougeL"]), (first, second)


def test_the_answer_most_like_the_others_is_taken():
    drawn = ["Set the pydantic convention.", "Return the axes of a plot.", "Return the axes.", "Draw it."]
    assert most_alike(drawn) == "Return the axes."
    assert most_alike(["", "b c", "b c"]) == "b c"
    assert most_alike(["one alone"]) == "one alone"
    with pytest.raises(ValueError, match="no answers were drawn"):
        most_alike([])


def test_the_lead_sentence_has_as_much_say_as_it_is_given():
    drawn = ["Return the axes.", "Return the axes.", "Draws the graph at once."]
    lead = "The graph is drawn at once."
    assert most_alike(drawn, lead) == most_alike(drawn, lead, 0.5) == drawn[0]
    assert most_alike(drawn, lead, 3.0) == drawn[2]


def test_where_answers_have_little_in_common_the_lead_sentence_is_given():
    agreeing, lead = ["Return the axes.", "Return the axes.", "Return all axes."], "The graph is drawn at once."
    apart = ["Set the convention.", "Return the axes.", "A graph of words."]
    assert most_alike(agreeing, lead, 1.0, 0.25) == agreeing[0]
    assert most_alike(apart, lead, 1.0, 0.25) == lead
    assert most_alike(apart, lead, 1.0) in apart  # the model's own, however unsure it is
    assert most_alike(apart, "", 1.0, 0.25) in apart  # there is nothing else to give
    assert most_alike(apart[:1], lead, 1.0, 0.25) == apart[0]  # nor does one answer alone disagree
