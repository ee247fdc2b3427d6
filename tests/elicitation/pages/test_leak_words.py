import math

import pytest

from elicitation.calibration.record import LEAKS, Leak, Mean, leak
from elicitation.pages.record_words import is_leaky, leak_figures, leak_sentence, silent_figures
from elicitation.pages.study.ladder import ladder_table
from elicitation.pages.study.page import Page, render
from tests.elicitation.pages.opened import plain

NAN = math.nan
NONE = Mean(NAN, NAN, NAN)


def made(gain: float, share: float = NAN, n_silent: int = 0) -> Leak:
    return Leak(
        n_cases=2,
        n_problems=300,
        n_refused=0,
        gain=Mean(gain, gain - 0.01, gain + 0.02),
        share=Mean(share, share - 0.02, share + 0.04),
        n_silent=n_silent,
        beyond=Mean(0.008, -0.022, 0.038) if n_silent else NONE,
        beyond_case="absent" if n_silent else "",
    )


def test_a_leak_is_written_as_a_share_or_where_all_were_refused_in_points():
    assert tuple(map(plain, leak_figures(made(0.1, 0.2)))) == ("20 %", "[18, 24]")
    assert tuple(map(plain, leak_figures(made(0.1)))) == ("+10.0 points", "[9.0, 12.0]")


def test_what_was_not_measured_is_said_so_and_does_not_leak():
    silent_only = Leak(
        n_cases=0, n_problems=0, n_refused=0, gain=NONE, share=NONE, n_silent=1, beyond=NONE, beyond_case="absent"
    )
    for found in (None, silent_only):
        assert leak_figures(found) == ("not measured", "")
        assert not is_leaky(found)
        assert leak_sentence(found) == ""


def test_only_more_than_two_points_are_called_a_leak():
    assert not is_leaky(made(0.02, 0.04))
    assert is_leaky(made(0.0201, 0.04))
    assert leak_sentence(made(0.019, 0.04)) == ""
    assert plain(leak_sentence(made(0.1, 0.2))) == (
        "It leaks: where all of the gain was taught and none could be elicited (2 organisms, 300 problems in all), it "
        "still brings 20 % [18, 24] of the gain, so its share here is no proof that the base model had as much."
    )
    assert "+10.0 points [9.0, 12.0], so" in plain(leak_sentence(made(0.1)))


def test_the_largest_gain_where_there_is_none_is_written_beside():
    assert plain(silent_figures(made(0.1, 0.2, n_silent=2))) == "+0.8 [−2.2, 3.8]"
    assert silent_figures(made(0.1)) == silent_figures(None) == ""


def test_the_ladder_table_has_a_leak_beside_each_share(page: Page):
    table = plain(ladder_table(page.tables.ladder, page.leaks))
    cells = table.split('data-heading="Leak"><div>')[1:]
    shown = [cell.split("</div>")[0] for cell in cells]
    # From the tuned model down to the base.
    assert shown[0] == shown[-1] == "–"
    assert shown[1].startswith('<span class="no">98 %</span> <span class="span">[')
    assert shown[-3] == "not measured"
    assert '<span class="span">+0.8 [−1.2, 3.8]</span>' in shown[1]


def test_the_ladder_table_has_the_interval_of_bits_and_what_an_answer_costs(page: Page):
    table = plain(ladder_table(page.tables.ladder, page.leaks))
    assert '0.52 <span class="span">[0.416, 0.676]</span> <span class="span">11.4 a problem</span>' in table
    assert '0 <span class="span">8 × the tokens</span>' in table
    assert table.count("× the tokens") == 1


@pytest.mark.parametrize(("gain", "leaks"), [(0.3, True), (0.01, False)])
def test_the_answer_owns_up_where_the_arm_that_it_names_leaks(page: Page, gain: float, leaks: bool):
    rows = [
        row | {"gain": gain, "share": gain, "share_low": gain - 0.1, "share_high": gain + 0.1}
        for row in page.leaks.to_dicts()
        if row["arm"] == "routed" and row["kind"] == "TAUGHT"
    ]
    text = render(Page(**{name: getattr(page, name) for name in page.__slots__} | {"leaks": LEAKS.frame(rows)}))
    header = text.split("</header>")[0]
    assert ("It leaks" in header) == leaks
    assert is_leaky(leak(LEAKS.frame(rows), "routed")) == leaks
