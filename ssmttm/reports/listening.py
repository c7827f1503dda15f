"""The listening test's page, and its results as Markdown and HTML."""

from __future__ import annotations

from typing import Any

from ssmttm import storage
from ssmttm.evaluation.listening import ANCHORS, QUESTIONS
from ssmttm.reports.page import markdown_table, render, with_interval

Content = dict[str, Any]


def page_of_test() -> str:
    """What a listener sees; `listening_app` serves it."""
    return render("listening_test")


def _tables(content: Content) -> list[tuple[str, list[list[str]]]]:
    def rows(entries: Content) -> list[list[str]]:
        order = sorted(entries, key=lambda name: (name in ANCHORS, -entries[name]["value"]))
        interval = {name: with_interval(*(entries[name][key] for key in ("value", "low", "high"))) for name in order}
        return [[name, interval[name], str(entries[name]["n"])] for name in order]

    titles = {"quality": "Overall quality, 1 to 5", "relevance": "Fit to the text, 1 to 5"}
    found = [(titles[question], rows(content["mean_opinion"][question])) for question in QUESTIONS]
    found.append(("Preferred in pairs, log odds (Bradley-Terry)", rows(content["bradley_terry"])))
    return [(title, entries) for title, entries in found if entries]


def _about(content: Content) -> str:
    return (
        f"{content['sessions']} sessions, {content['finished']} of them finished; {content['inattentive']} that failed "
        f"a check are left out. In brackets 95 % bootstrap intervals over sessions ({content['draws']} draws)."
    )


def to_markdown(content: Content) -> str:
    tables = (markdown_table([title, "Mean", "Answers"], rows) for title, rows in _tables(content))
    return "\n\n".join(["# Listening test", _about(content), *tables]) + "\n"


def to_html(content: Content) -> str:
    return render("listening", about=_about(content), tables=_tables(content))


def write(content: Content, out: str) -> Content:
    """Write what `listening.analyse` found as `out`.json, .md and .html; returns it."""
    storage.write_json(f"{out}.json", content)
    storage.write_text(f"{out}.md", to_markdown(content))
    storage.write_text(f"{out}.html", to_html(content))
    return content
