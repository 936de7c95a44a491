"""One torch thread for as long as the outermost block runs."""

from __future__ import annotations

import pytest
import torch

from emotag_hf.utils.torch_threads import one_torch_thread


@pytest.fixture(autouse=True)
def several_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_an_inner_block_does_not_wake_the_others():
    """A look at the validation frames inside a training gave torch its threads back for the rest of it: steps were
    slower, and sums of gradients came out in another order each time, so that a resumed training was not the same."""
    with one_torch_thread():
        with one_torch_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_an_error_gives_them_back():
    with pytest.raises(KeyError), one_torch_thread():
        raise KeyError
    assert torch.get_num_threads() == 3
