"""The notebooks: their form, a fresh run of each, and their committed outputs against it."""

import functools
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest

from helpers import __main__ as cli
from helpers.errors import InputError
from helpers.series import check, colab, reading, run

NOTEBOOKS = run.find_notebooks()
# what notebooks record: exact values, and limits
REQUIRED = {
    "00": {"start.state_bytes": 473088, "start.state_growth": 0, "start.top_p_different": 0},
    "01": {"vocab.tokens": 65529, "vocab.lost_by_ignore": 485, "vocab.bytes_different": 0},
    "02": {f"tokenizer.{name}_mismatches": 0 for name in ("slow", "fast", "own_slow", "own_fast")},
    "03": {"model.same_next_token": 1, "model.same_written_tokens": 40},
    "04": {"parity.same_next_token": True, "modeling.behaviours_right": 22},
    "05": {"parity.versions": 5},
    "08": {
        "conversion.tensors": 286,
        "conversion.names_wrong": 0,
        "conversion.sizes_inferred": 7,
        "conversion.versions_converted": 6,
        "parity.passed": True,
    },
    "09": {"lambada.documents": 150, "lambada.same_predictions": True},
    "10": {"batch.rows_equal": 3, "cache.same_tokens": 20, "serve.same_answer": True},
    "11": {"training.resumed_unequal": 0, "training.tuned_tensors": 98},
    "12": {
        "speed.parameters": 192_780_576,
        "speed.bytes_per_token": 574_664_832,
        "speed.operations_miscounted": 0,
    },
    "13": {
        "appendix.refused": 8,
        "conversion.export_differences": 0,
        "conversion.exported_versions": 7,
        "conversion.refresh_differences": 0,
    },
}
AT_LEAST = {
    "02": {"tokenizer.cases": 100_000},
    "03": {"model.tokens": 80},
    "04": {"parity.tokens": 200},
    "07": {"rwkv7.error_adding": 2.0},
    "08": {"parity.tokens": 200},
}
AT_MOST = {
    "03": {"model.max_abs_logit_diff": 1e-4, "model.lines": 100},
    "04": {"parity.max_abs_logit_diff": 1e-4, "parity.ours_from_fp64": 1e-4, "parity.rwkv_from_fp64": 1e-4},
    "05": {"parity.readers_max_abs_logit_diff": 1e-4, "parity.versions_max_abs_logit_diff": 1e-4},
    "06": {
        "rwkv6.prefill_difference": 1e-4,
        "rwkv6.decode_difference": 1e-4,
        "rwkv6.trained_difference": 1e-4,
        "rwkv6.converted_difference": 1e-4,
        "rwkv6.chunks_difference": 1e-10,
    },
    "07": {
        "rwkv7.prefill_difference": 1e-4,
        "rwkv7.decode_difference": 1e-4,
        "rwkv7.trained_difference": 1e-4,
        "rwkv7.converted_difference": 1e-4,
        "rwkv7.chunks_difference": 1e-10,
        "rwkv7.error_erasing": 0.5,
    },
    "08": {"parity.max_abs_logit_diff": 1e-4, "conversion.versions_max_abs_logit_diff": 1e-4},
    "09": {"lambada.max_abs_logprob_diff": 1e-4},
    "10": {"batch.max_abs_logit_diff": 1e-4},
    "11": {"training.last_loss": 7},
    "12": {"speed.states_max_abs_diff": 1e-12},
}


@functools.cache
def fresh(notebook: Path):
    with tempfile.TemporaryDirectory() as folder:
        return run.execute(notebook, Path(folder) / notebook.name)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_form(notebook):
    assert check.check_template(notebook) == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_times_and_the_set_of_exercises(notebook):
    """The stated time is not less than the rule gives, and there are easy, medium and hard exercises."""
    assert reading.check_times(nbformat.read(notebook, as_version=4)) == []


@pytest.mark.parametrize("start", ["00_start_here", "00_start_here_zh"])
def test_the_table_of_the_series_has_the_times_of_the_notebooks(start):
    table = nbformat.read(run.NOTEBOOKS / f"{start}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in table.cells if cell.cell_type == "markdown")
    for notebook in NOTEBOOKS:
        stated = reading.STATED.search(nbformat.read(notebook, as_version=4).cells[0].source)
        row = next(line for line in text.splitlines() if re.match(rf"\| \[?{notebook.name[:2]}\. ", line))
        assert re.findall(r"\d+", row.split("|")[4] + row.split("|")[5]) == list(stated.groups()), row


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_those_of_a_fresh_run(notebook):
    committed = nbformat.read(notebook, as_version=4)
    assert check.compare_outputs(committed, fresh(notebook)) == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_recorded_numbers(notebook):
    metrics = run.read_metrics(fresh(notebook))
    assert metrics, "the notebook records nothing"
    number = notebook.name[:2]
    assert {name: metrics[name] for name in REQUIRED.get(number, {})} == REQUIRED.get(number, {})
    for name, least in AT_LEAST.get(number, {}).items():
        assert metrics[name] >= least, name
    for name, most in AT_MOST.get(number, {}).items():
        assert metrics[name] <= most, name
    if number == "09":
        assert metrics["lambada.original.ppl"] == pytest.approx(metrics["lambada.converted.ppl"], rel=1e-4)
        assert metrics["lambada.original.acc"] == metrics["lambada.converted.acc"]


def good_notebook() -> nbformat.NotebookNode:
    text = "# Title\n" + " ".join(check.MARKERS)
    code = nbformat.v4.new_code_cell("x = 1", execution_count=1, metadata={"tags": ["parameters"]}, id="parameters")
    output = nbformat.v4.new_output("stream", text="loss 1.0000 after 1,000 tokens")
    printing = nbformat.v4.new_code_cell("print(x)", execution_count=2, outputs=[output], id="print")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="title"), code, printing])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    colab.put_cell(notebook, colab.cell_source(colab.repository()))
    return notebook


def timed_notebook() -> nbformat.NotebookNode:
    """A notebook of 1,000 words, 60 lines, a figure and a formula: 5 + 5 + 1 + 1 minutes, of exercises 50."""
    new = nbformat.v4
    title = "# Title\n10 minutes to read, 50 more for the exercises" + " word" * 990
    sums = new.new_code_cell("x = 1\n\n" * 60, outputs=[with_figure("a figure")], id="sums")
    stars = [f"### Exercise ({stars}, {minutes} minutes)" for stars, minutes in (("★", 5), ("★", 10), ("★★", 15))]
    cells = [new.new_markdown_cell(title, id="title"), sums, new.new_markdown_cell("$$a + b$$", id="formula")]
    cells += [new.new_markdown_cell(text + " word" * 900, id=f"e-{n}") for n, text in enumerate(stars)]
    cells += [new.new_markdown_cell("### Exercise (★★★, 20 minutes)", id="hard")]
    cells += [new.new_code_cell("x = 1\n" * 900, id="exercise-00-1"), new.new_code_cell("x\n" * 900, id="colab")]
    return new.new_notebook(cells=cells)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda nb: nb.cells[1].update(source="x = 1\n" * 180), "says 10 minutes to read, and the rule gives 20"),
        (lambda nb: nb.cells.pop(6), r"there are 0 exercises \(★★★\)"),
        (lambda nb: nb.cells.pop(3), "there are 1 exercises"),
        (lambda nb: nb.cells[5].update(source="### Exercise (★★, 10 minutes)"), "50 .* add up to 45"),
        (lambda nb: nb.cells[0].update(source="# Title"), "does not say"),
    ],
)
def test_times_that_are_wrong_are_found(change, problem):
    notebook = timed_notebook()
    assert reading.reading_minutes(notebook) == 10
    assert reading.check_times(notebook) == []
    change(notebook)
    assert re.search(problem, "; ".join(reading.check_times(notebook)))


def with_figure(alt):
    return nbformat.v4.new_output("display_data", {"image/png": "AA=="}, metadata={"image/png": {"alt": alt}})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda nb: nb.cells[2].metadata.clear(), "tagged parameters"),
        (lambda nb: nb.metadata.clear(), "not python3"),
        (lambda nb: nb.metadata.update(widgets={}), "widget state"),
        (lambda nb: nb.cells[3].update(execution_count=5), "top to bottom"),
        (lambda nb: nb.cells[1].update(source="1"), "not the one for Colab"),
        (lambda nb: nb.cells.pop(1), "not the one for Colab"),
        (lambda nb: nb.cells[0].update(source="Title"), "begin with a title"),
        (lambda nb: nb.cells[0].update(source="# Title"), "no 'Pitfall'"),
        (lambda nb: nb.cells[3].update(source="open('/home/me/x')"), "machine's path"),
        (lambda nb: nb.cells[3].outputs[0].update(text="/root/x"), "machine's path"),
        (lambda nb: nb.cells[3].update(source="x\n" * 31), "more than 30 lines"),
        (lambda nb: nb.cells[3].outputs.append(nbformat.v4.new_output("error", ename="E")), "ends in E"),
        (lambda nb: nb.cells[3].outputs.append(with_figure("")), "without alt text"),
    ],
)
def test_defects_of_form_are_found(change, problem, tmp_path):
    notebook = good_notebook()
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook, path)
    assert check.check_template(path) == []
    change(notebook)
    nbformat.write(notebook, path)
    assert any(problem in found for found in check.check_template(path))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("loss 1.0001 after 1,000 tokens", True),
        ("loss 1.1000 after 1,000 tokens", False),
        ("loss 1.0000 after 2,000 tokens", False),
        ("gain 1.0000 after 1,000 tokens", False),
        ("", False),
    ],
)
def test_outputs_are_compared(text, same):
    committed, other = good_notebook(), good_notebook()
    other.cells[3].outputs[0].text = text
    assert (check.compare_outputs(committed, other) == []) == same
    committed.cells[3].metadata.tags = ["volatile"]
    assert check.compare_outputs(committed, other) == []


def test_what_is_committed_of_a_cell():
    """Tags stay, and what is hidden stays hidden; times, progress bars and texts in pieces do not."""
    executed = good_notebook()
    cell = executed.cells[3]
    cell.metadata = {"tags": ["volatile"], "jupyter": {"source_hidden": True}, "papermill": {"duration": 1.0}}
    bar = nbformat.v4.new_output("stream", name="stderr", text="100 %")
    cell.outputs = [nbformat.v4.new_output("stream", text="a"), bar, nbformat.v4.new_output("stream", text="b\n")]
    drawn = nbformat.v4.new_output(
        "display_data", {"text/plain": "numbers:   0%|          | 0.00/696k [00:00<?, ?B/s]"}
    )
    cell.outputs.insert(2, drawn)
    committed = run.committed_form(executed)
    assert committed.cells[3].metadata == {"tags": ["volatile"], "jupyter": {"source_hidden": True}}
    assert [output.text for output in committed.cells[3].outputs] == ["ab\n"]
    assert committed.cells[2].metadata == {"tags": ["parameters"]}


def test_the_kernel_is_this_interpreter(tmp_path, monkeypatch):
    """A kernel ``python3`` elsewhere, even where Jupyter looks first, is not taken (papermill#761)."""
    other = tmp_path / "other" / "kernels" / "python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "-f", "{connection_file}"], "display_name": "Other", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "other"))
    write_series(tmp_path, "import sys; from helpers.teaching import record; record(python=sys.executable)")
    assert run.run_series(out_dir=tmp_path / "out" / "n", folder=tmp_path).metrics == {"python": sys.executable}


def test_the_environment_of_this_process_is_as_before(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    before = dict(os.environ)
    with run.changed_environment(run.kernel_environment(tmp_path)):
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert dict(os.environ) == before


def write_series(folder: Path, *sources: str) -> None:
    for number, source in enumerate(sources):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, id="only")])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / f"0{number}_step.ipynb")


def test_a_series_runs_from_any_directory(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_series(tmp_path, "from helpers.teaching import record\nrecord(a__b=3)", "import sys; print(sys.executable)")
    monkeypatch.chdir(elsewhere)
    summary = run.run_series(out_dir=tmp_path / "build" / "notebooks", folder=tmp_path)
    assert summary.metrics == {"a.b": 3}
    assert set(summary.seconds) == {"00_step", "01_step"}
    assert (tmp_path / "build" / "summary.json").is_file()
    assert "a.b" in run.table(summary)
    names = sorted(path.name for path in (tmp_path / "build" / "notebooks").iterdir())
    assert names == ["00_step.html", "00_step.ipynb", "01_step.html", "01_step.ipynb", "mathjax.js"]


def test_two_notebooks_run_at_a_time_and_results_are_in_order(tmp_path, monkeypatch, capsys):
    """The first waits for the second, and the one that measures begins when both are done."""
    monkeypatch.setattr(run, "cores", lambda: 2)
    waiting = "import pathlib, time\nwhile not pathlib.Path('b').exists(): time.sleep(0.05)\n"
    record = "from helpers.teaching import record\n"
    write_series(tmp_path, f"{waiting}{record}record(a__a=1)", f"{record}record(b__b=2)\nopen('b', 'w').close()")
    measuring = f"{record}record(c__c=len(list(__import__('pathlib').Path('out').glob('*.html'))))"
    (tmp_path / "alone").mkdir()
    write_series(tmp_path / "alone", measuring)
    (tmp_path / "alone" / "00_step.ipynb").rename(tmp_path / "12_step.ipynb")
    summary = run.run_series(out_dir=tmp_path / "out", folder=tmp_path)
    assert summary.metrics == {"a.a": 1, "b.b": 2, "c.c": 2}
    assert list(summary.metrics) == ["a.a", "b.b", "c.c"]
    assert list(summary.seconds) == ["00_step", "01_step", "12_step"]
    lines = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[1:]]
    # which of two that run together is done first is the machine's choice: the page of 01 is made while 00 goes on
    assert [line.split()[0] for line in lines] == ["[1/3]", "[2/3]", "[3/3]"]
    assert {line.split()[1] for line in lines[:2]} == {"00_step.ipynb", "01_step.ipynb"}
    assert lines[2].split()[1] == "12_step.ipynb"


def test_translations_are_not_run(tmp_path):
    write_series(tmp_path, "1")
    (tmp_path / "00_step_zh.ipynb").write_bytes((tmp_path / "00_step.ipynb").read_bytes())
    assert [path.name for path in run.find_notebooks(folder=tmp_path)] == ["00_step.ipynb"]
    assert [path.name for path in run.find_translations(tmp_path)] == ["00_step_zh.ipynb"]


def test_a_failing_cell_is_named(tmp_path):
    write_series(tmp_path, "1 / 0")
    with pytest.raises(InputError, match=r"00_step\.ipynb, cell In \[1\]: ZeroDivisionError: division by zero"):
        run.run_series(out_dir=tmp_path / "out", folder=tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00_step.failed.ipynb"]


def test_unknown_notebook(capsys):
    assert cli.main(["tutorial", "99"]) == 2
    assert "begins with '99'" in capsys.readouterr().err
