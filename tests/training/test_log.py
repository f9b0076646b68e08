import json

import pytest

from greedyprune.training.log import TrainLog, duration

from .tiny_training import read_log


def step_record(step, epoch=1):
    return {"step": step, "epoch": epoch, "loss": 1.0, "lr": 1e-4, "images_per_s": 5.0}


def test_a_resumed_log_has_every_step_once_and_no_half_lines(tmp_path):
    log = TrainLog(tmp_path, 0, 0, 100)
    for step in (10, 20, 30, 40):
        log.step(step_record(step, 1 if step <= 20 else 2))
        if step == 20:
            log.epoch({"step": 20, "epoch": 1, "AP": 0.5, "AP50": 0.75})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 45, "lo')

    log = TrainLog(tmp_path, 30, 1, 100)
    log.step(step_record(40, 2))
    log.close()
    records = read_log(tmp_path)
    assert [record["step"] for record in records] == [10, 20, 20, 30, 40]
    assert records[2]["AP"] == 0.5


def test_an_epoch_that_is_evaluated_again_is_logged_once(tmp_path):
    log = TrainLog(tmp_path, 0, 0, 100)
    log.epoch({"step": 20, "epoch": 1})
    log.close()
    log = TrainLog(tmp_path, 20, 0, 100)
    log.epoch({"step": 20, "epoch": 1})
    log.close()
    assert len(read_log(tmp_path)) == 1


def test_tensorboard_gets_the_numbers(tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = TrainLog(tmp_path, 0, 0, 100, tensorboard=True)
    log.step(step_record(10))
    log.close()
    events = loader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 1.0)]


def test_lines_of_the_log_are_json_objects(tmp_path):
    log = TrainLog(tmp_path, 0, 0, 100)
    log.epoch({"step": 20, "epoch": 1, "AP": 0.5, "AP50": 0.75, "per_class": {"a": 0.5}})
    log.close()
    assert json.loads((tmp_path / "log.jsonl").read_text())["per_class"] == {"a": 0.5}


@pytest.mark.parametrize(("seconds", "text"), [(40, "1 min"), (20, "20 s"), (700, "12 min"), (11100, "3 h 05 min")])
def test_durations_are_rounded_for_people(seconds, text):
    assert duration(seconds) == text
