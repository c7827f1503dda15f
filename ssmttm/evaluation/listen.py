"""`ssmttm listen`: serves a listening test, and says what its listeners answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.evaluation.listening import Settings, read_stimuli
from ssmttm.evaluation.listening_analysis import analyse, to_html, to_markdown
from ssmttm.evaluation.listening_store import Answers


def serve(folders: Sequence[str], answers: str, host: str, port: int, settings: Settings) -> None:
    """Serve the test until it is interrupted. No access log is kept: it would hold addresses.

    Raises:
        UserError: see `read_stimuli` and `make_app`.
    """
    import uvicorn

    from ssmttm.evaluation.listening_app import make_app

    app = make_app(read_stimuli(folders), Answers(answers), settings)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)


def report(answers: str, out: str) -> dict[str, Any]:
    """Write what was answered as `out`.json, .md and .html; returns the content of the first.

    Raises:
        UserError: if the file holds no test.
    """
    if not storage.exists(answers):
        raise UserError(f"{answers} does not exist; name the file that the answers are kept in with --answers")
    stored = Answers(answers)
    content = analyse(stored.all(), stored.number_of_trials())
    storage.write_json(f"{out}.json", content)
    storage.write_text(f"{out}.md", to_markdown(content))
    storage.write_text(f"{out}.html", to_html(content))
    return content
