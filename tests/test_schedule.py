"""The course of a run: steps, learning rate, draws, and a request to stop."""

from argparse import Namespace

import numpy as np

from data.slice_cache import SliceStore
from models.schedule import Schedule, StopRequest


def test_schedule_is_constant_then_falls_to_zero() -> None:
    options = Namespace(batch_size=4, n_epochs=3, n_epochs_decay=2, max_steps=None, lr=1.0)
    schedule = Schedule.of(options, vertebrae=10)  # three steps an epoch
    assert (schedule.steps, schedule.decay_steps, schedule.steps_per_epoch) == (15, 6, 3)
    rates = [schedule.learning_rate(step) for step in range(15)]
    assert rates[:9] == [1.0] * 9
    assert np.allclose(rates[9:], np.arange(6, 0, -1) / 7)


def test_max_steps_shrinks_the_schedule() -> None:
    options = Namespace(batch_size=4, n_epochs=3, n_epochs_decay=2, max_steps=5, lr=1.0)
    assert Schedule.of(options, 10) == Schedule(5, 2, 3, 1.0)
    options.max_steps = 500
    assert Schedule.of(options, 10).steps == 15


def test_the_schedule_draws_on_from_any_step() -> None:
    store = read_store()
    schedule = Schedule(steps=8, decay_steps=0, steps_per_epoch=3, rate=1.0)
    whole = [draw.vertebra.tolist() for draw in schedule.draws(store, 2, 0, 0)]
    assert len(whole) == 8
    for start in range(9):
        assert [draw.vertebra.tolist() for draw in schedule.draws(store, 2, 0, start)] == whole[start:]


def read_store() -> SliceStore:
    """Five vertebrae of three one-pixel slices."""
    from data.aligned_dataset import VertebraSlices

    images, distance = np.zeros((3, 2, 1, 1), np.uint8), np.array([-0.5, 0.0, 0.5], np.float32)
    return SliceStore([VertebraSlices(str(number), images, distance, 0, 1) for number in range(5)])


def test_a_stop_request_finishes_the_step() -> None:
    import os
    import signal

    with StopRequest() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set
