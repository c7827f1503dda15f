"""Evaluate a bundle on held-out prompts: writes clips and evaluation.json under evaluate.out.

    python jobs/evaluate.py --preset mini evaluate.bundle=URI train.data=TOKENS corpus.source=CORPUS evaluate.out=URI

Runs in Ray actors of one CPU each (one GPU with train.use_gpu=true), or in process with train.launch=local.

    python jobs/evaluate.py evaluate.systems.ours=URI evaluate.systems.peer=FOLDER evaluate.reference=FOLDER

compares bundles, MusicGen checkpoints and folders of audio instead, one after the other in process: writes
comparison.json, comparison.md and comparison.html.
"""

from __future__ import annotations

from ssmttm import config, storage
from ssmttm.errors import exit_on_user_error
from ssmttm.evaluation.controls import TITLES
from ssmttm.evaluation.evaluate import compare, evaluate
from ssmttm.lease import hold
from ssmttm.reports import comparison


def measure(settings: config.Config) -> None:
    if settings.evaluate.systems or settings.evaluate.audio:
        print(comparison.write(compare(settings), settings.evaluate.out), end="")
        return
    content = evaluate(settings)
    heard = "  ".join(
        f"{name} {row['generated']:.2f}" + (f" ({row['shuffled']:.2f})" if "shuffled" in row else "")
        for name, row in content["adherence"].items()
        if "generated" in row
    )
    print(
        f"wrote {storage.join(settings.evaluate.out, 'evaluation.json')} in {content['wall_s']} s; "
        f"follows the prompt (shuffled prompts): {heard}"
    )
    for name, row in content.get("controls", {}).items():
        cells = (f"{system} {figure['value']:.2f}" for system, figure in row.items() if figure["value"] is not None)
        print(f"{TITLES[name]}: {', '.join(cells)}")


def main() -> None:
    with exit_on_user_error():
        settings = config.parse_arguments(__doc__ or "", "evaluate")
        with hold(settings.evaluate.out, "choose another evaluate.out"):
            measure(settings)


if __name__ == "__main__":
    main()
