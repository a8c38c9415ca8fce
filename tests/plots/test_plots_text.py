"""Text coloured by activation: figures and HTML."""

import re

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from tfprune.plots import activation_html, activation_text, save_figure

TOKENS = ["the", "cost", "(", "in", "$", ")", "of", "<b>", "&"]
VALUES = np.linspace(-1.0, 1.0, 9)


def grounds(figure):
    return [own for own in figure.axes[0].patches if isinstance(own, Rectangle)]


def test_a_token_has_the_colour_of_its_value(tmp_path):
    figure = activation_text(TOKENS, VALUES, title="costs $ and $")
    assert [own.get_text() for own in figure.axes[0].texts] == ["", *TOKENS]
    colours = [own.get_facecolor() for own in grounds(figure)]
    assert colours[0][2] > colours[0][0] and colours[-1][0] > colours[-1][2]
    np.testing.assert_allclose(colours[4][:3], 0.97, atol=0.02)
    assert figure.axes[1].get_xlim() == (-1.0, 1.0)
    save_figure(figure, tmp_path / "text.png")
    assert (tmp_path / "text.png").stat().st_size > 1000
    wider = activation_text(TOKENS, VALUES, bound=2.0)
    assert grounds(wider)[-1].get_facecolor()[2] > colours[-1][2]


def test_long_texts_go_on_in_the_next_line():
    figure = activation_text([TOKENS * 4, ["end"]], [np.tile(VALUES, 4), [0.5]], titles=["first", "last"], width=40)
    places = [(own.get_y(), own.get_x(), own.get_width()) for own in grounds(figure)]
    lines = sorted({y for y, _, _ in places})
    assert len(lines) == 4
    for line in lines:
        own = [(x, width) for y, x, width in places if y == line]
        assert all(a + width <= b for (a, width), (b, _) in zip(own, own[1:], strict=False))
        assert own[-1][0] + own[-1][1] <= 7.2 + 40 + 0.2
    assert lines[-1] - lines[-2] == pytest.approx(1.3)


def test_letters_of_east_asia_are_twice_as_wide():
    figure = activation_text([["日本", "ab"]], [[1.0, 0.0]])
    assert [own.get_width() for own in grounds(figure)] == pytest.approx([4.2, 2.2])


def test_html_says_the_same():
    text = activation_html([TOKENS], [VALUES], titles=["a < b"], title="x & y")
    assert re.findall(r'title="([^"]+)"', text) == [f"{value:.4g}" for value in VALUES]
    assert "&lt;b&gt;" in text and "a &lt; b" in text and "x &amp; y" in text and "<b>" not in text
    colours = re.findall(r"background:#(\w\w)(\w\w)(\w\w)", text)
    assert len(colours) == 9 and colours[0][2] > colours[0][0] and colours[-1][0] > colours[-1][2]
    page = activation_html(TOKENS, VALUES, page=True)
    assert page.startswith("<!DOCTYPE html>") and "http" not in page and 'charset="utf-8"' in page


@pytest.mark.parametrize("draw", [activation_text, activation_html])
@pytest.mark.parametrize(
    "tokens, values, options, message",
    [
        (TOKENS, VALUES[:-1], {}, r"received texts of \[9\] tokens, \[8\] values and no titles"),
        ([], [], {}, r"received texts of \[\] tokens"),
        ([TOKENS], [VALUES], {"titles": ["a", "b"]}, "and 2 titles"),
        (TOKENS, VALUES * np.nan, {}, "NaN or infinite"),
        (TOKENS, VALUES, {"bound": 0.0}, "bound expects a number above 0"),
    ],
)
def test_bad_input(draw, tokens, values, options, message):
    with pytest.raises(ValueError, match=message):
        draw(tokens, values, **options)


def test_values_that_are_all_zero():
    assert grounds(activation_text(["a"], [0.0]))[0].get_facecolor()[0] == pytest.approx(0.97, abs=0.02)
