"""A third opinion: lm-eval on a converted directory gives our numbers. Needs the extra: pip install -e ".[lm-eval]"."""

import pytest
import torch

from helpers.checkpoints import synthetic
from helpers.conversion import directory, loading
from helpers.lambada import passages, protocol
from helpers.paths import ROOT

lm_eval = pytest.importorskip("lm_eval")


@pytest.mark.parametrize("version", ["4", "5.2"])
def test_lm_eval_agrees(version, tmp_path, monkeypatch):
    """1e-4 relative: fp32 rounding, 1e-5 of a log-probability, in batches of another size."""
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    path = tmp_path / "model.pth"
    synthetic.write_random_checkpoint(path, version, hidden_size=32, head_size=16, dtype=torch.float32)
    folder = directory.convert(path, tmp_path / "converted", progress=False)
    data = tmp_path / "passages.jsonl"
    data.write_text("".join(passages.SAMPLE.read_text().splitlines(keepends=True)[:12]))
    documents = protocol.encode_world(passages.read_texts(data), "none")
    ours = protocol.collect(protocol.score_converted(loading.load_model(folder), documents), len(documents), show=False)

    tasks = TaskManager(include_path=str(ROOT / "helpers" / "lambada" / "lm_eval_tasks"), metadata={"data": str(data)})
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "trust_remote_code": True, "dtype": "float32", "device": "cpu"},
        tasks=["lambada_local"],
        task_manager=tasks,
        batch_size=5,
        bootstrap_iters=0,
    )["results"]["lambada_local"]
    perplexity, accuracy = protocol.summarize(ours)
    assert found["perplexity,none"] == pytest.approx(perplexity, rel=1e-4)
    assert found["acc,none"] == pytest.approx(accuracy / 100)
