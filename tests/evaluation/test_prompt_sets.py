from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssmttm.errors import UserError
from ssmttm.evaluation.caption_sets import MUSICCAPS, SONG_DESCRIBER
from ssmttm.evaluation.prompt_sets import Prompt, choose, read_prompts
from ssmttm.evaluation.prompts import FREE_FORM_PROMPTS


def test_the_demos_prompts_have_ids() -> None:
    prompts = read_prompts("demo")
    assert len(prompts) == len(FREE_FORM_PROMPTS)
    assert prompts[0] == Prompt("demo-000", FREE_FORM_PROMPTS[0][0])


def test_published_sets_and_their_subsets(tmp_path: Path) -> None:
    caps = tmp_path / "musiccaps.csv"
    rows = [f"id{i},30,40,/m/1,\"['a']\",caption {i},1,{i == 1},True" for i in range(3)]
    caps.write_text("\n".join([",".join(MUSICCAPS), *rows]))
    assert read_prompts(str(caps))[2] == Prompt("id2", "caption 2")
    assert read_prompts(str(caps), only_subset=True) == [Prompt("id1", "caption 1")]
    describer = tmp_path / "sdd.csv"
    describer.write_text(f"{','.join(SONG_DESCRIBER)}\n7,1,calm harp,True,0,2,3,00/1.mp3,120\n")
    assert read_prompts(str(describer)) == [Prompt("7", "calm harp")]


def test_plain_tables(tmp_path: Path) -> None:
    table, lines, texts = (tmp_path / f"prompts.{end}" for end in ("csv", "jsonl", "txt"))
    table.write_text('id,genre,prompt\nx,jazz,"slow, calm"\n,rock,loud\n')
    assert read_prompts(str(table)) == [Prompt("x", "slow, calm"), Prompt("0001", "loud")]
    lines.write_text(json.dumps({"caption": "slow", "id": 4}) + "\n\n" + json.dumps({"prompt": "loud"}))
    assert read_prompts(str(lines)) == [Prompt("4", "slow"), Prompt("0001", "loud")]
    texts.write_text("slow\n\nloud\n")
    assert read_prompts(str(texts)) == [Prompt("0000", "slow"), Prompt("0001", "loud")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,genre\n1,jazz\n", "columns id, genre; it needs 'prompt' or 'caption'"),
        ("a.csv", "id,prompt\n1\n", "line 2: 1 cells, the header has 2"),
        ("a.csv", "id,prompt\n1,x\n1,y\n", "id '1' occurs twice"),
        ("a.csv", "id,prompt\n1,\n", "has no text"),
        ("a.csv", "id,prompt\n", "holds no prompts"),
        ("a.jsonl", "[1]\n", "line 1 needs a text"),
        ("a.jsonl", "{\n", "line 1 is not valid JSON"),
        ("a.xml", "", "give 'demo' or a .csv"),
    ],
)
def test_malformed_sets_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_prompts(str(tmp_path / name))


def test_only_published_sets_have_subsets() -> None:
    with pytest.raises(UserError, match="no published subset"):
        read_prompts("demo", only_subset=True)


def test_a_choice_is_the_seeds_and_in_order() -> None:
    prompts = read_prompts("demo")
    chosen = choose(prompts, 5, 0)
    assert len(chosen) == 5
    assert chosen == choose(prompts, 5, 0) == sorted(chosen, key=prompts.index)
    assert chosen != choose(prompts, 5, 1)
    assert choose(prompts, 1000, 0) == prompts
