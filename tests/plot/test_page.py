"""A page of tables and figures."""

from __future__ import annotations

from wsss_kit.plot.page import write_report


def test_words_stand_left_and_numbers_right(tmp_path):
    tables = {"t": [["name", "a", "b"], ["x", "-1.5", "what <it> is"], ["y", "-", "3 of 4"]]}
    page = write_report(
        tmp_path / "r.html", title="T", reports={}, figures={}, tables=tables
    ).read_text(encoding="utf-8")
    assert '<td class="words">what &lt;it&gt; is</td>' in page
    assert "<td>-1.5</td>" in page and "<td>-</td>" in page and "<td>3 of 4</td>" in page
